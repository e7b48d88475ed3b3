"""Row 7: a draft's burst of k ids, against as many eager forwards of the same model."""

from collections.abc import Callable, Sequence
from typing import Any

from actors.engine.config import EngineConfig
from actors.engine.engine import Engine
from cluster.bench.measure import Report, interleave
from tests.gpu.benchmarks import native
from tests.gpu.benchmarks.device import Device
from tests.gpu.benchmarks.lab import BLOCK_SIZE, NUM_BLOCKS_OF_ONE, Lab
from tests.gpu.benchmarks.streams import drafted_ids, fresh_request, ragged_prompts
from tests.gpu.random_models import SHAPES, as_loaded, random_model, share

Burst = Callable[[int], object]
"""Takes k, and drafts k ids; the device is idle again when it returns."""

NUM_PROMPT_TOKENS = 64
K = 5
MUST = 4.0
OURS, THEIRS = "slipstream", "eager forwards"


def measure(report: Report, ours: Burst, theirs: Burst, k: int, device: Device, num_bursts: int, repeats: int) -> None:
    """Add bursts a second of both, which take turns, and their ratio."""

    def speed(burst: Burst) -> Callable[[], float]:
        def several() -> None:
            for _ in range(num_bursts):
                burst(k)

        return lambda: num_bursts / device.seconds(several)

    report.samples |= interleave({OURS: speed(ours), THEIRS: speed(theirs)}, unit="bursts/s", repeats=repeats)
    report.ratio(f"over {k} eager forwards", OURS, THEIRS, MUST)


def engine_burst(engine: Any, prompt: Sequence[int], max_num_tokens: int) -> Burst:
    """Bursts by an engine: each confirms what the last one drafted, and asks for k ids more."""
    request = fresh_request(prompt, max_num_tokens)
    name = request.request_id
    engine.open(request)
    ids, told = list(prompt), 0

    def burst(k: int) -> None:
        nonlocal ids, told
        if len(ids) + 2 * k > len(prompt) + max_num_tokens:  # begin anew, behind the prompt, whose cache is kept
            ids, told = list(prompt), 0
        engine.extend(name, told, ids[told:], k)
        told = len(ids)
        ids = [*ids, *drafted_ids(engine, name)]

    burst(1)
    return burst


def run(lab: Lab, shape: str) -> Report:
    """Measure and report."""
    lab.clear()
    model = share(random_model(SHAPES[shape], lab.device.torch), quantized_head=True)
    twin = share(model)
    (prompt,) = ragged_prompts(1, NUM_PROMPT_TOKENS, NUM_PROMPT_TOKENS, model.config.vocab_size)
    config = EngineConfig(block_size=BLOCK_SIZE, num_blocks=NUM_BLOCKS_OF_ONE, max_num_seqs=1, prefix_cache=False)
    engine = Engine(as_loaded(model, NUM_BLOCKS_OF_ONE), config)
    report = lab.report(f"gpu_burst_{shape}", f"{shape} NF4 with a head in NF4, bursts of {K} ids behind each other")
    ours = engine_burst(engine, prompt, BLOCK_SIZE * NUM_BLOCKS_OF_ONE // 2)
    measure(report, ours, native.eager_burst(twin, prompt), K, lab.device, lab.options.num_steps, lab.options.repeats)
    return report
