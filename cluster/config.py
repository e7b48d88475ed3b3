"""The configuration of a whole cluster: one frozen tree, from Python, YAML or the ``args`` of a Serve application."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta

from actors.config import ImportPath, ProcessorName, Role, RouterConfig, WorkerConfig
from actors.drafter import NO_DRAFT
from actors.engine.config import EngineConfig, ModelConfig
from actors.engine.errors import ConfigError
from actors.engine.params import MAX_STOP_STRINGS, MAX_TOP_LOGPROBS
from actors.status import default_draft_name
from cluster.scaling import ScalingConfig


class PoolConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Equal workers that scale together.

    Attributes:
        replicas: workers; where ``max_replicas`` is given, the fewest.
        max_replicas: the most that load may make of them; None keeps their number.
        scaling: when their number changes.
    """

    worker: WorkerConfig
    replicas: Annotated[int, Meta(ge=1)] = 1
    max_replicas: Annotated[int, Meta(ge=1)] | None = None
    scaling: ScalingConfig = ScalingConfig()

    def __post_init__(self) -> None:
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ConfigError(f"max_replicas: at least replicas ({self.replicas}), but it is {self.max_replicas}")


class LimitsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Bounds on what HTTP requests may ask for, so that none of them can hurt the others.

    Attributes:
        max_num_requests: requests that one ingress has in hand at a time; more are refused before they are read.
        max_body_bytes: of a request's body, counted while it is read.
        max_num_prompt_tokens: of one prompt; None leaves it to the model's context.
        max_num_prompts: prompts of one request.
        max_n: answers to one prompt.
        max_num_sequences: answers of one request, over all its prompts.
        max_num_beams: width of a beam search.
        max_num_native_requests: requests that transformers' own code runs, at a time: guidance, tensors, ...
        max_output_bytes: of the tensors that one answer brings, as float32.
        max_logprobs: alternatives with their log-probabilities, for each token.
        max_num_stop_strings, max_stop_string_chars: how many stop strings, and how long one may be.
        max_num_logit_biases: entries of ``logit_bias``.
        max_num_listed_ids: token ids that lists such as ``bad_words_ids`` may name in all.
        body_timeout: seconds in which a request's body must have come.
        request_timeout: seconds after which a request is ended; its client may ask for fewer.
    """

    max_num_requests: Annotated[int, Meta(ge=1)] = 4096
    max_body_bytes: Annotated[int, Meta(ge=1024)] = 4 * 1024 * 1024
    max_num_prompt_tokens: Annotated[int, Meta(ge=1)] | None = None
    max_num_prompts: Annotated[int, Meta(ge=1)] = 128
    max_n: Annotated[int, Meta(ge=1)] = 32
    max_num_sequences: Annotated[int, Meta(ge=1)] = 256
    max_num_beams: Annotated[int, Meta(ge=1)] = 16
    max_num_native_requests: Annotated[int, Meta(ge=1)] = 16
    max_output_bytes: Annotated[int, Meta(ge=0)] = 64 * 1024 * 1024
    max_logprobs: Annotated[int, Meta(ge=0, le=MAX_TOP_LOGPROBS)] = 20
    max_num_stop_strings: Annotated[int, Meta(ge=0, le=MAX_STOP_STRINGS)] = MAX_STOP_STRINGS
    max_stop_string_chars: Annotated[int, Meta(ge=1)] = 256
    max_num_logit_biases: Annotated[int, Meta(ge=0)] = 1024
    max_num_listed_ids: Annotated[int, Meta(ge=0)] = 4096
    body_timeout: Annotated[float, Meta(gt=0.0)] = 60.0
    request_timeout: Annotated[float, Meta(gt=0.0)] = 600.0

    def __post_init__(self) -> None:
        for name in ("max_n", "max_num_prompts"):
            if getattr(self, name) > self.max_num_sequences:
                raise ConfigError(
                    f"max_num_sequences: at least {name} ({getattr(self, name)}), but it is {self.max_num_sequences}"
                )


class Pool(NamedTuple):
    """One pool of a cluster. ``draft_pool`` is the name of a draft's; empty for the default one and for targets."""

    role: Role
    draft_pool: str
    config: PoolConfig


PoolName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]


class ClusterConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A target pool, draft pools in front of it (or none), the router between them, and the door.

    Attributes:
        name: the model name that clients ask for.
        draft: the drafts of requests that name none. Requests ask for it, too, by its model's name.
        drafts: more pools of drafts, by the name that requests ask for them by (``assistant_model``).
        processors: logits processors and stopping criteria of transformers that requests may name: name to
            ``module:attribute``, a class or a function that makes one, importable wherever workers run.
        api_keys_file: a file of API keys that the door demands, one a line, read again when it changes. Keys may also
            come from the environment; see :mod:`serve_app.keys`.
    """

    name: str = "demo"
    target: PoolConfig
    draft: PoolConfig | None = None
    drafts: dict[PoolName, PoolConfig] = {}
    router: RouterConfig = RouterConfig()
    limits: LimitsConfig = LimitsConfig()
    processors: dict[ProcessorName, ImportPath] = {}
    api_keys_file: str | None = None

    def __post_init__(self) -> None:
        taken = {self.name: "the target", NO_DRAFT: "decoding plainly"}
        if self.draft is not None:
            taken[default_draft_name(self.draft.worker.model.model, self.name)] = "the default draft"
        for name in self.drafts:
            if name in taken:
                raise ConfigError(f"drafts: {name!r} is the name of {taken[name]}; give this pool another")

    @property
    def pools(self) -> tuple[Pool, ...]:
        """All pools that are to be started."""
        drafts = ({} if self.draft is None else {"": self.draft}) | self.drafts
        return (
            Pool("target", "", self.target),
            *(Pool("draft", name, self._assisting(pool)) for name, pool in drafts.items()),
        )

    def _assisting(self, pool: PoolConfig) -> PoolConfig:
        """A pool of drafts that know whom they draft for."""
        worker = msgspec.structs.replace(pool.worker, assists=self.target.worker.model)
        return msgspec.structs.replace(pool, worker=worker)

    @property
    def draft_models(self) -> dict[str, ModelConfig]:
        """The models of the draft pools, by the names that requests ask for them by; the default one first."""
        drafts = [(pool.draft_pool, pool.config.worker.model) for pool in self.pools if pool.role == "draft"]
        return {name or default_draft_name(model.model, self.name): model for name, model in drafts}

    @property
    def models(self) -> dict[str, ModelConfig]:
        """All that can be asked, by the name to ask for: the target, then its drafts."""
        return {self.name: self.target.worker.model, **self.draft_models}

    def worker_config(self, pool: PoolConfig) -> WorkerConfig:
        """What the workers of a pool are started with: their own configuration, and the cluster's processors."""
        return msgspec.structs.replace(pool.worker, processors={**pool.worker.processors, **self.processors})

    @property
    def custom_resources(self) -> dict[str, float]:
        """Ray resources of one's own that the workers take together when their pools are at their largest."""
        total: dict[str, float] = {}
        for _, _, pool in self.pools:
            for name, amount in pool.worker.resources.items():
                total[name] = total.get(name, 0.0) + amount * (pool.max_replicas or pool.replicas)
        return total

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
