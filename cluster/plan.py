"""``slipstream plan``: how many GPUs a target and a draft need, worked out from their configurations alone.

The memory is planned by the code that loads models, with layers placed one by one and the KV cache beside them; no
weight is read. What a host offers is one, two, four or eight equal GPUs.
"""

import contextlib
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass

import click
import msgspec
import yaml
from rich.console import Console
from rich.table import Table

from actors.config import WorkerConfig
from actors.engine.catalog import find_checkpoint
from actors.engine.config import EngineConfig, ModelConfig
from actors.engine.errors import ConfigError, DoesNotFitError
from actors.engine.load_plan import LoadPlan, plan_load
from actors.engine.loading import read_model_config
from actors.engine.memory import blocks_for, context_length, format_size, parse_size
from cluster.config import ClusterConfig, PoolConfig
from cluster.configure import configure

GPUS = {  # MiB, as nvidia-smi shows them
    "T4": 15360,
    "L4": 23034,
    "A10G": 23028,
    "RTX4090": 24564,
    "A100-40GB": 40960,
    "L40S": 46068,
    "A100-80GB": 81920,
    "H100": 81559,
    "H200": 143771,
    "B200": 183359,
}
HOST_SIZES = (1, 2, 4, 8)
CUDA_BYTES = 600 * 2**20  # context and kernels of a process, gone before a model is loaded
DEFAULT_CONTEXT = 8192
DEFAULT_STREAMS = 16
ROUND_TOKENS = 4  # drafted a round, on the whole
DRAFT_BUSY = 0.7  # of its time that a draft should compute
NUM_CPUS = 2.0  # of an actor whose model is on GPUs


@dataclass(frozen=True, kw_only=True)
class ActorPlan:
    """One actor on its GPUs.

    Attributes:
        model: what it loads.
        engine: its bounds.
        num_gpus: the fewest that hold weights and the KV cache that was asked for.
        weight_bytes: as loaded.
        checkpoint_bytes: as stored, where nothing is quantized.
        kv_bytes_per_token: over all layers.
        num_kv_tokens: that fit beside the weights, at least as many as were asked for.
        fullest: share of the fullest GPU that weights take.
        notes: what a person should know.
    """

    model: ModelConfig
    engine: EngineConfig
    num_gpus: int
    weight_bytes: int
    checkpoint_bytes: int
    kv_bytes_per_token: int
    num_kv_tokens: int
    fullest: float
    notes: tuple[str, ...] = ()

    def worker(self, role: str) -> WorkerConfig:
        """The actor's configuration; its resource keeps targets and drafts to hosts of their own."""
        return WorkerConfig(
            model=self.model,
            engine=self.engine,
            num_gpus=float(self.num_gpus),
            num_cpus=NUM_CPUS,
            num_threads=int(NUM_CPUS),
            resources={f"slipstream-{role}": 1.0},
        )


@dataclass(frozen=True, kw_only=True)
class ClusterPlan:
    """A target, and the draft that runs ahead of it (or none), on GPUs of one kind."""

    name: str
    gpu: str
    gpu_bytes: int
    target: ActorPlan
    draft: ActorPlan | None = None

    @property
    def num_targets_a_draft(self) -> int:
        """Targets that one draft keeps up with, where reading weights from memory sets the pace of both."""
        if self.draft is None:
            return 0
        return max(1, math.floor(DRAFT_BUSY * self.target.weight_bytes / (ROUND_TOKENS * self.draft.weight_bytes)))

    def config(self) -> ClusterConfig:
        """The cluster to start from."""
        draft = None if self.draft is None else PoolConfig(worker=self.draft.worker("draft"))
        return ClusterConfig(name=self.name, target=PoolConfig(worker=self.target.worker("target")), draft=draft)


def gpu_memory(name: str) -> int:
    """Bytes of a GPU, by name or as a size such as 24GiB. Raises ConfigError naming those that are known."""
    known = {key.lower(): size for key, size in GPUS.items()}
    if name.lower() in known:
        return known[name.lower()] * 2**20
    try:
        return parse_size(name, field="gpu")
    except ConfigError:
        raise ConfigError(f"gpu: one of {', '.join(GPUS)}, or a size such as 24GiB, but it is {name!r}") from None


def plan_actor(model: ModelConfig, gpu_bytes: int, num_streams: int, context: int | None = None) -> ActorPlan:
    """Find the fewest GPUs of a host that hold a model and a KV cache for ``num_streams`` sequences of full length.

    Args:
        model: what to load.
        gpu_bytes: of one GPU.
        num_streams: sequences at a time.
        context: tokens of each; None is the model's context, or 8192 where that is longer.

    Raises:
        DoesNotFitError: eight of them are too few.
        ConfigError: anything else that cannot work.
    """
    checkpoint = find_checkpoint(model.model, model.revision)
    own = context_length(read_model_config(checkpoint).get_text_config(), EngineConfig())
    engine = EngineConfig(
        max_num_seqs=num_streams, max_model_len=min(own, DEFAULT_CONTEXT) if context is None else context
    )
    wanted = msgspec.structs.replace(engine, num_blocks=num_streams * blocks_for(engine.max_model_len or own, engine))

    def attempt(count: int, bounds: EngineConfig) -> LoadPlan:
        free: dict[int | str, int] = {index: gpu_bytes - CUDA_BYTES for index in range(count)}
        with _quiet():
            return plan_load(model, bounds, checkpoint, read_model_config(checkpoint), {**free, "cpu": 0})

    reason = ""
    for count in HOST_SIZES:
        try:
            attempt(count, wanted)
            plan = attempt(count, engine)
        except DoesNotFitError as error:
            reason = str(error)
            continue
        sizes = plan.blueprint.sizes
        return ActorPlan(
            model=model,
            engine=engine,
            num_gpus=count,
            weight_bytes=sum(sizes.values()),
            checkpoint_bytes=sum(plan.blueprint.plain_sizes.values()),
            kv_bytes_per_token=plan.kv_bytes_per_token,
            num_kv_tokens=plan.num_blocks * engine.block_size,
            fullest=max(load.weights for load in plan.placement.loads.values()) / gpu_bytes,
            notes=plan.notes,
        )
    raise DoesNotFitError(f"{model.model}: {HOST_SIZES[-1]} GPUs of {format_size(gpu_bytes)} are too few: {reason}")


def plan_cluster(
    model: str,
    gpu: str,
    *,
    assistant_model: str | None = None,
    quantization: str | None = None,
    assistant_quantization: str | None = None,
    dtype: str = "auto",
    num_streams: int = DEFAULT_STREAMS,
    context: int | None = None,
) -> ClusterPlan:
    """Plan a target and its draft; arguments as :func:`cluster.configure.configure` takes them. Raises ConfigError."""
    gpu_bytes = gpu_memory(gpu)
    config = configure(
        model,
        assistant_model=assistant_model,
        quantization=quantization,
        assistant_quantization=assistant_quantization,
        dtype=dtype,
        num_gpus=0.0,
        assistant_num_gpus=0.0,
        num_threads=1,
    )
    draft = config.draft
    return ClusterPlan(
        name=config.name,
        gpu=gpu,
        gpu_bytes=gpu_bytes,
        target=plan_actor(config.target.worker.model, gpu_bytes, num_streams, context),
        draft=None if draft is None else plan_actor(draft.worker.model, gpu_bytes, num_streams, context),
    )


def show_plan(plan: ClusterPlan, *, as_json: bool = False) -> None:
    """Print a plan to stdout: a table and the fields for a manifest, or plain data."""
    if as_json:
        data = {**msgspec.to_builtins(plan), "num_targets_a_draft": plan.num_targets_a_draft}
        click.echo(msgspec.json.format(msgspec.json.encode(data)).decode())
        return
    console = Console()
    console.print(plan_table(plan))
    for actor in filter(None, (plan.target, plan.draft)):
        for note in actor.notes:
            console.print(f"{actor.model.model}: {note}", highlight=False)
    click.echo("\n# serveConfigV2, under args; the pods of a pool have as many nvidia.com/gpu as num_gpus")
    click.echo(yaml.safe_dump(msgspec.to_builtins(plan.config()), sort_keys=False), nl=False)


def plan_table(plan: ClusterPlan) -> Table:
    """A column for the target and one for the draft."""
    actors = [actor for actor in (plan.target, plan.draft) if actor is not None]
    table = Table("", *("target", "draft")[: len(actors)], header_style="bold")
    rows = {
        "model": lambda a: a.model.model,
        "weights": lambda a: f"{format_size(a.weight_bytes)} ({_kind(a.model)})",
        "checkpoint on disk": lambda a: format_size(a.checkpoint_bytes),
        "KV cache a token": lambda a: format_size(a.kv_bytes_per_token),
        "asked for": lambda a: f"{a.engine.max_num_seqs} sequences of {a.engine.max_model_len} tokens",
        "KV cache": lambda a: f"{a.num_kv_tokens} tokens, {format_size(a.num_kv_tokens * a.kv_bytes_per_token)}",
        "GPUs an actor": lambda a: f"{a.num_gpus} x {plan.gpu} ({format_size(plan.gpu_bytes)})",
        "weights on the fullest": lambda a: f"{a.fullest:.0%}",
    }
    for name, words in rows.items():
        table.add_row(name, *map(words, actors))
    if plan.draft is not None:
        table.add_row("targets a draft", "", str(plan.num_targets_a_draft))
    return table


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence libraries that miss GPUs which are only imagined, and offloading that is not wanted."""
    loggers = [logging.getLogger(name) for name in ("accelerate", "transformers")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _kind(model: ModelConfig) -> str:
    return "as stored" if model.quantization == "none" else model.quantization
