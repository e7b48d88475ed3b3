"""Speculation that is there but not used: a target's loop at k = 0 over one that has no draft, at 1 to 32 streams.

All loops run in this process on one engine and take turns block by block, the others' streams held meanwhile, so that
a hundredth can be told. Two ways to k = 0: pinned, and found by a target whose draft is always wrong, which goes on
asking it now and then.
"""

import itertools
import statistics
import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from tqdm import tqdm

from actors.config import RouterConfig
from actors.engine.config import EngineConfig
from actors.engine.engine import Engine
from actors.engine.params import GenerationParams
from actors.engine.request import Request
from actors.messages import Abort, Deltas, Extend, Message, Proposal, Proposals, Start
from actors.status import WorkerInfo
from actors.target_loop import TargetLoop
from tests.benchmarks import workload
from tests.benchmarks.measure import Bar, Report, sample

STREAMS = (1, 8, 32)
PROMPT_LENGTH = 32
BLOCK = 4  # steps that a contender has before the next one's turn
WARM_UP = 12  # blocks: enough for a target to find out that its draft is always wrong
BLOCKS = 8  # of each contender, for each repeat
WRONG = 1  # is added to ids to make a draft that never guesses right
MUST, AIM = 0.99, 1.0


@dataclass
class WrongDraft:
    """The link of a target whose draft answers at once, and wrong; what is not of use is dropped.

    Attributes:
        vocab_size: of the target.
        num_steps: forwards of the target that brought tokens.
        num_asked: questions that came.
    """

    vocab_size: int
    num_steps: int = 0
    num_asked: int = 0
    ids: dict[str, list[int]] = field(default_factory=dict)
    answers: deque[Proposals] = field(default_factory=deque)

    def send(self, receiver: str, message: Message) -> None:
        """See :class:`actors.link.Link`."""
        match message:
            case Deltas():
                self.num_steps += 1
            case Extend(items=items):
                self.num_asked += len(items)
                proposals = []
                for item in items:
                    known = self.ids.setdefault(item.request_id, [])
                    known[item.start :] = item.token_ids
                    last = (known[-1] + WRONG) % self.vocab_size
                    drafted = (last,) * item.num_draft_tokens
                    proposals.append(Proposal(request_id=item.request_id, start=len(known), token_ids=drafted))
                self.answers.append(Proposals(draft_id=receiver, items=tuple(proposals), step_time=0.002))


class Contender:
    """A target's loop."""

    def __init__(self, engine: Engine, config: RouterConfig, draft_id: str) -> None:
        size = workload.target().vocab_size
        self._engine = engine
        self._link = WrongDraft(size)
        info = WorkerInfo(worker_id="target", role="target", pool="synthetic", model="synthetic", vocab_size=size)
        self._loop = TargetLoop(engine, self._link, info, "router", config, time.perf_counter)
        self._draft_id = draft_id
        self._request_ids: list[str] = []

    @property
    def num_asked(self) -> int:
        """Questions that its draft has had."""
        return self._link.num_asked

    def start(self, num_streams: int) -> None:
        """Read the prompts of so many streams, in place of those that there were."""
        for request_id in self._request_ids:
            self._loop.handle(Abort(request_id=request_id))
        prompts = workload.ragged_prompts(num_streams, PROMPT_LENGTH, PROMPT_LENGTH)
        self._request_ids = [uuid.uuid4().hex for _ in prompts]
        for request_id, prompt in zip(self._request_ids, prompts, strict=True):
            params = GenerationParams(max_new_tokens=2000, ignore_eos=True)
            request = Request(request_id=request_id, prompt_token_ids=tuple(prompt), params=params)
            self._loop.handle(Start(request=request, draft_id=self._draft_id))
            self._engine.hold(request_id)

    def block(self) -> float:
        """Seconds of a step, over a block of them in which nobody else's streams run."""
        for request_id in self._request_ids:
            self._engine.release(request_id)
        until = self._link.num_steps + BLOCK
        started = time.perf_counter()
        while self._link.num_steps < until:
            while self._link.answers:
                self._loop.handle(self._link.answers.popleft())
            self._loop.run_once()
        seconds = time.perf_counter() - started
        for request_id in self._request_ids:
            self._engine.hold(request_id)
        return seconds / BLOCK


def run(repeats: int) -> Report:
    """Measure and report tokens a second, and ratios block by block."""
    torch.set_num_threads(workload.NUM_THREADS)
    report = Report(
        name="speculation_off",
        what="synthetic 200M NF4, a target's loop with a draft at k = 0 over one without, tokens/s of all streams",
        settings={"streams": STREAMS, "steps_a_block": BLOCK, "blocks": BLOCKS * repeats},
    )
    engine = Engine(workload.target(), EngineConfig(num_blocks=1280, max_num_seqs=128, prefix_cache=False))
    contenders = {
        "no draft": Contender(engine, RouterConfig(), ""),
        "k = 0, pinned": Contender(engine, RouterConfig(num_assistant_tokens=0), "draft"),
        "k = 0, found": Contender(engine, RouterConfig(overlap=False), "draft"),
    }
    ratios: dict[str, list[float]] = {name: [] for name in list(contenders)[1:]}
    with tqdm(total=len(STREAMS) * (WARM_UP + BLOCKS * repeats), unit="block", dynamic_ncols=True) as progress:
        for streams in STREAMS:
            progress.set_description(f"{streams} streams")
            times = measured(contenders, streams, BLOCKS * repeats, progress.update)
            for name, seconds in times.items():
                report.samples[f"{name}, {streams} streams"] = sample("tok/s", [streams / value for value in seconds])
            for name, found in ratios.items():
                pairs = zip(times["no draft"], times[name], strict=True)
                found.append(statistics.median(base / own for base, own in pairs))
    for name, found in ratios.items():
        report.settings[f"ratios, {name}"] = dict(zip(STREAMS, found, strict=True))
        report.bars.append(Bar(f"{name} over no draft, worst load", min(found), MUST, AIM))
    report.settings["questions"] = {name: contender.num_asked for name, contender in contenders.items()}
    return report


def measured(
    contenders: dict[str, Contender], streams: int, blocks: int, done: Callable[[], object]
) -> dict[str, list[float]]:
    """Seconds of a step in each block; who begins a round changes from round to round."""
    for contender in contenders.values():
        contender.start(streams)
    times: dict[str, list[float]] = {name: [] for name in contenders}
    order = itertools.cycle([list(contenders), list(contenders)[::-1]])
    for index in range(WARM_UP + blocks):
        for name in next(order):
            seconds = contenders[name].block()
            if index >= WARM_UP:
                times[name].append(seconds)
        done()
    return times
