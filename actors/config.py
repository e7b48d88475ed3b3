"""Configuration of one model actor and of the router. Free of torch and of Ray."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from actors.engine.config import EngineConfig, ModelConfig
from actors.engine.errors import ConfigError

ProcessorName = Annotated[str, Meta(pattern=r"^[A-Za-z_][\w.-]{0,127}$")]
ImportPath = Annotated[str, Meta(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")]

NAMESPACE = "slipstream"
ROUTER_NAME = "slipstream-router"


class SimulationConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """An engine without a model, for measuring coordination: see :mod:`actors.simulated_engine`.

    Attributes:
        step_times: (tokens in a forward, seconds that it takes), growing in tokens, with straight lines between; none
            at all costs nothing.
        acceptance: probability with which a drafted token is right.
        second_acceptance: probability with which the draft's second choice is right where its first is not.
        vocab_size: tokens are drawn from 0 up to it; the tokenizer beside it should know them.
    """

    step_times: tuple[tuple[Annotated[int, Meta(ge=1)], Annotated[float, Meta(ge=0.0)]], ...] = ()
    acceptance: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.8
    second_acceptance: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.0
    vocab_size: Annotated[int, Meta(ge=2)] = 1024

    def __post_init__(self) -> None:
        counts = [num_tokens for num_tokens, _ in self.step_times]
        if counts != sorted(set(counts)):
            raise ConfigError(f"step_times: numbers of tokens must grow from entry to entry, but they are {counts}")


class WorkerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One model actor: its model, its engine, and what it takes of the machine.

    Attributes:
        num_gpus: GPUs of the actor; a whole number, or a fraction below 1 to share one.
        num_cpus: CPUs that Ray reserves for the actor.
        resources: amounts of Ray resources of your own that keep the actor to hosts which have them.
        num_threads: CPU threads of its engine, set on purpose so that actors on one host do not fight for cores.
        simulation: in place of the model's weights; the tokenizer and the generation defaults stay the model's.
        assists: of a draft, the model that it drafts for, so that its token ids can be translated where the two have
            different tokenizers. A cluster sets it by itself.
        processors: import paths of logits processors and stopping criteria, by the names that requests give them.
    """

    model: ModelConfig
    engine: EngineConfig = EngineConfig()
    simulation: SimulationConfig | None = None
    assists: ModelConfig | None = None
    num_gpus: Annotated[float, Meta(ge=0.0)] = 0.0
    num_cpus: Annotated[float, Meta(ge=0.0)] = 1.0
    resources: dict[str, Annotated[float, Meta(gt=0.0)]] = {}
    num_threads: Annotated[int, Meta(ge=1)] = 1
    processors: dict[ProcessorName, ImportPath] = {}

    def __post_init__(self) -> None:
        if self.num_gpus > 1 and self.num_gpus != int(self.num_gpus):
            raise ConfigError(f"num_gpus: a whole number, or a fraction below 1, but it is {self.num_gpus}")
        reserved = sorted(self.resources.keys() & {"CPU", "GPU", "memory"})
        if reserved:
            raise ConfigError(f"resources: {reserved[0]} is Ray's own; set num_cpus or num_gpus instead")


Channel = Literal["auto", "socket", "ray"]


class RouterConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The router's policy.

    Attributes:
        channel: how messages travel: "auto" over sockets between actors, unless Ray's own calls are encrypted
            (``RAY_USE_TLS``) and sockets would not be; "socket" even then; "ray" as actor calls, which is also how they
            go wherever no connection can be made.
        num_assistant_tokens: pins the draft length of the whole cluster; None adapts it to acceptance and load.
        max_num_assistant_tokens: upper bound of an adapted draft length.
        overlap: whether drafts write ahead while their targets check; None lets each target find out what pays.
        branches: whether drafts that write ahead also go on from their second choices, where that costs them nothing.
        max_num_requests: requests in flight in the whole cluster; more are refused.
        draft_timeout: seconds that a target waits for a proposal before it decodes on without one.
        report_interval: seconds between two reports of a worker.
        worker_timeout: seconds without a report after which a worker counts as gone.
    """

    channel: Channel = "auto"
    num_assistant_tokens: Annotated[int, Meta(ge=0, le=64)] | None = None
    max_num_assistant_tokens: Annotated[int, Meta(ge=1, le=64)] = 7
    overlap: bool | None = None
    branches: bool = True
    max_num_requests: Annotated[int, Meta(ge=1)] = 4096
    draft_timeout: Annotated[float, Meta(gt=0.0)] = 0.25
    report_interval: Annotated[float, Meta(gt=0.0)] = 0.5
    worker_timeout: Annotated[float, Meta(gt=0.0)] = 10.0


Role = Literal["target", "draft"]
