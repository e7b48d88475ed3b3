"""The cluster as one thing: its configuration, how it starts, and the Python face on it.

>>> from cluster import ClusterConfig, ClusterModel

Names are loaded when they are first used: ``import cluster`` is quick and imports neither torch nor Ray.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cluster.config import ClusterConfig
    from cluster.model import ClusterModel

__version__ = "0.1.0"
__all__ = ["ClusterConfig", "ClusterModel", "__version__"]

_HOMES = {"ClusterConfig": "cluster.config", "ClusterModel": "cluster.model"}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
