"""What several folders of tests share: one Ray for the whole run, started by the first test that needs it."""

import logging
import os
from collections.abc import Iterator

import pytest

from actors.config import NAMESPACE
from actors.ray_environment import prepare_environment

# Triton decides at its first import, which may be torch's, whether its functions are compiled for a GPU or interpreted.
# Tests on a CPU interpret them; processes that they start decide for themselves.
if "TRITON_INTERPRET" not in os.environ and not os.path.exists("/dev/nvidiactl"):
    os.environ["TRITON_INTERPRET"] = "1"
    try:
        import triton.language  # noqa: F401
    except ImportError:  # no wheels for this platform; the tests that need it say so
        pass
    finally:
        del os.environ["TRITON_INTERPRET"]


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """A Ray of this run's own, with CPUs to promise but none to spare."""
    prepare_environment()
    import ray

    ray.init(
        address="local",
        namespace=NAMESPACE,
        num_cpus=8,
        object_store_memory=100 * 1024 * 1024,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    yield
    ray.shutdown()
