"""The configuration of a whole cluster: one frozen tree, from Python, YAML or the ``args`` of a Serve application."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from actors.config import RouterConfig, WorkerConfig
from actors.engine.config import EngineConfig, ModelConfig
from actors.engine.errors import ConfigError


class PoolConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Equal workers that scale together."""

    worker: WorkerConfig
    replicas: Annotated[int, Meta(ge=1)] = 1
    max_replicas: Annotated[int, Meta(ge=1)] | None = None

    def __post_init__(self) -> None:
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ConfigError(f"max_replicas: at least replicas ({self.replicas}), but it is {self.max_replicas}")


class LimitsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Bounds on what one HTTP request may ask for."""

    max_body_bytes: Annotated[int, Meta(ge=1024)] = 4 * 1024 * 1024
    max_num_prompts: Annotated[int, Meta(ge=1)] = 128
    max_n: Annotated[int, Meta(ge=1)] = 32
    max_logprobs: Annotated[int, Meta(ge=0)] = 20
    request_timeout: Annotated[float, Meta(gt=0.0)] = 600.0


class ClusterConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A target pool, a draft pool in front of it (or none), the router between them, and the door.

    Attributes:
        name: the model name that clients ask for.
    """

    name: str = "demo"
    target: PoolConfig
    draft: PoolConfig | None = None
    router: RouterConfig = RouterConfig()
    limits: LimitsConfig = LimitsConfig()

    @classmethod
    def demo(cls) -> "ClusterConfig":
        """The embedded pair in NF4, one core each.

        Its draft length is pinned: models this small compute faster than messages travel, so an adapted length would
        rightly be 0, and there would be no draft to watch.
        """
        return cls(
            name="demo",
            target=PoolConfig(
                worker=WorkerConfig(
                    model=ModelConfig(model="demo", quantization="nf4"),
                    engine=EngineConfig(num_blocks=2048, max_num_seqs=64),
                )
            ),
            draft=PoolConfig(
                worker=WorkerConfig(
                    model=ModelConfig(model="demo-draft", quantization="nf4"),
                    engine=EngineConfig(num_blocks=2048, max_num_seqs=64),
                )
            ),
            router=RouterConfig(num_assistant_tokens=4),
        )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "ClusterConfig":
        """Build from plain data. An empty mapping is the demo. Raises ConfigError naming the field."""
        if not data:
            return cls.demo()
        if not isinstance(data, Mapping):
            raise ConfigError(f"cluster config: a mapping is needed, but it is {type(data).__name__}")
        try:
            return msgspec.convert(dict(data), cls)
        except msgspec.ValidationError as error:
            raise ConfigError(f"cluster config: {error}") from error

    @classmethod
    def from_file(cls, path: str | Path) -> "ClusterConfig":
        """Read a YAML or JSON file. Raises ConfigError naming the file and the field."""
        import yaml

        file = Path(path)
        if not file.is_file():
            raise ConfigError(f"cluster config: no file at {file}")
        try:
            return cls.from_dict(yaml.safe_load(file.read_text()) or {})
        except (yaml.YAMLError, ConfigError) as error:
            raise ConfigError(f"{file}: {error}") from error
