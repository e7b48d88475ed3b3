"""Configuration of one model actor and of the router. Free of torch and of Ray."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from actors.engine.config import EngineConfig, ModelConfig
from actors.engine.errors import ConfigError

NAMESPACE = "slipstream"
ROUTER_NAME = "slipstream-router"


class WorkerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One model actor: its model, its engine, and what it takes of the machine.

    Attributes:
        num_gpus: GPUs of the actor; a whole number, or a fraction below 1 to share one.
        num_cpus: CPUs that Ray reserves for the actor.
        num_threads: CPU threads of its engine, set on purpose so that actors on one host do not fight for cores.
    """

    model: ModelConfig
    engine: EngineConfig = EngineConfig()
    num_gpus: Annotated[float, Meta(ge=0.0)] = 0.0
    num_cpus: Annotated[float, Meta(ge=0.0)] = 1.0
    num_threads: Annotated[int, Meta(ge=1)] = 1

    def __post_init__(self) -> None:
        if self.num_gpus > 1 and self.num_gpus != int(self.num_gpus):
            raise ConfigError(f"num_gpus: a whole number, or a fraction below 1, but it is {self.num_gpus}")


class RouterConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The router's policy.

    Attributes:
        num_assistant_tokens: pins the draft length of the whole cluster; None adapts it to acceptance and load.
        max_num_assistant_tokens: upper bound of an adapted draft length.
        max_num_requests: requests in flight in the whole cluster; more are refused.
        draft_timeout: seconds that a target waits for a proposal before it decodes on without one.
        report_interval: seconds between two reports of a worker.
        worker_timeout: seconds without a report after which a worker counts as gone.
    """

    num_assistant_tokens: Annotated[int, Meta(ge=0, le=64)] | None = None
    max_num_assistant_tokens: Annotated[int, Meta(ge=1, le=64)] = 7
    max_num_requests: Annotated[int, Meta(ge=1)] = 4096
    draft_timeout: Annotated[float, Meta(gt=0.0)] = 0.25
    report_interval: Annotated[float, Meta(gt=0.0)] = 0.5
    worker_timeout: Annotated[float, Meta(gt=0.0)] = 10.0


Role = Literal["target", "draft"]
