"""Drafts that write ahead, and branch, over tiny models: what a target emits is the same as alone."""

from typing import Any

import msgspec
import pytest

from actors.config import RouterConfig
from actors.draft_loop import DraftLoop
from actors.engine.engine import Engine
from actors.engine.params import GenerationParams
from actors.engine.request import Delta, Request
from actors.messages import Deltas, Message, Report, Start
from actors.model_loop import ModelLoop
from actors.target_loop import TargetLoop
from tests.actors.engine.harness import ragged_prompts, requests, run, tiny_engine, tokens
from tests.actors.engine.tiny_models import VOCAB_SIZE
from tests.actors.fakes import FakeClock, LossyNetwork, make_info

SAMPLED = GenerationParams(max_new_tokens=24, do_sample=True, temperature=0.7, seed=5, repetition_penalty=1.2)
GREEDY = GenerationParams(max_new_tokens=24)
TURN = 0.001


class TimedEngine:
    """An engine whose forwards take a set time of a fake clock."""

    def __init__(self, engine: Engine, clock: FakeClock, seconds: float) -> None:
        self._engine = engine
        self._clock = clock
        self._seconds = seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def step(self) -> list[Delta]:
        self._clock.advance(self._seconds)
        return self._engine.step()


class Pair:
    """A target and a draft over real engines, and a network between them. The draft takes four steps to a target's."""

    def __init__(self, target: Engine, draft: Engine, config: RouterConfig, seed: int, delay: float) -> None:
        self.clock = FakeClock()
        self.engines: dict[str, Any] = {
            "target": TimedEngine(target, self.clock, 0.004),
            "draft": TimedEngine(draft, self.clock, 0.001),
        }
        self.network = LossyNetwork(self.clock, seed, loss=0.03, twice=0.1, delay=delay)
        info = {name: msgspec.structs.replace(make_info(name, name), vocab_size=VOCAB_SIZE) for name in self.engines}
        self.loops: dict[str, ModelLoop] = {
            "target": TargetLoop(self.engines["target"], self.network, info["target"], "router", config, self.clock),
            "draft": DraftLoop(self.engines["draft"], self.network, info["draft"], "router", config, self.clock),
        }
        self.network.receivers = {name: loop.handle for name, loop in self.loops.items()}
        self.network.receivers["router"] = lambda message: None
        self.emitted: dict[str, list[int]] = {}
        self.num_branch_hits = 0
        self._send = self.network.send
        self.network.send = self.send  # type: ignore[method-assign]

    def send(self, peer: str, message: Message) -> None:
        """What the target emits is taken down here; only what target and draft say to each other gets lost."""
        if isinstance(message, Report) and message.info.role == "target":
            self.num_branch_hits = message.drafting.num_branch_hits
        if isinstance(message, Deltas):
            for delta in message.items:
                self.emitted.setdefault(delta.request_id, []).extend(delta.token_ids)
        else:
            self._send(peer, message)

    def run(self, todo: list[Request]) -> dict[str, list[int]]:
        for request in todo:
            self.loops["target"].handle(Start(request=request, draft_id="draft"))
        for _ in range(20_000):
            if not self.engines["target"].num_unfinished():
                break
            for name in ("target", "draft", "draft", "draft", "draft"):
                self.clock.advance(TURN / 5)
                self.network.deliver()
                self.loops[name].run_once()
                self.engines[name].check_integrity()
        return self.emitted


@pytest.mark.parametrize("params", [GREEDY, SAMPLED])
@pytest.mark.parametrize(("draft_seed", "delay"), [(0, 0.0), (0, 0.01), (1, 0.003)])
def test_overlap_and_branches_do_not_show(params: GenerationParams, draft_seed: int, delay: float) -> None:
    todo = requests(ragged_prompts(4, seed=3), params)
    want = tokens(run(tiny_engine(), todo))
    num_branch_hits = 0
    for length, overlap in ((None, True), (3, True), (4, False)):
        config = RouterConfig(num_assistant_tokens=length, overlap=overlap, draft_timeout=0.05, report_interval=0.01)
        pair = Pair(tiny_engine(), tiny_engine(seed=draft_seed), config, seed=draft_seed, delay=delay)
        assert pair.run(todo) == want
        stats = pair.engines["target"].stats()
        assert stats.num_free_blocks == stats.num_blocks
        num_branch_hits += pair.num_branch_hits
        if draft_seed == 0:  # the draft is the target: whatever it wrote in time is right
            assert stats.num_draft_tokens > 0
            assert stats.num_accepted_tokens == stats.num_draft_tokens
    assert draft_seed == 0 or params is GREEDY or num_branch_hits > 0


def test_a_fork_writes_what_the_model_would_behind_its_second_choice() -> None:
    engine = tiny_engine()
    prompt = ragged_prompts(1, seed=9)[0]
    engine.open(Request(request_id="d", prompt_token_ids=prompt, params=SAMPLED))
    engine.extend("d", len(prompt), [], 2, 4)
    written: tuple[int, ...] = ()
    while engine.has_work():
        for delta in engine.step():
            assert delta.token_ids[: len(written)] == written, "pieces grow"
            written = delta.token_ids
    assert len(written) == 6
    assert engine.fork("d", "f", len(prompt) - 1, 3) is None, "of a confirmed position nothing else is known"
    token_id = engine.fork("d", "f", len(prompt) + 2, 3)
    assert token_id is not None
    assert token_id != written[2]
    begun = (*written[:2], token_id)
    forked: tuple[int, ...] = ()
    while engine.has_work():
        for delta in engine.step():
            assert (delta.request_id, delta.start) == ("f", 0)
            forked = delta.token_ids
        engine.check_integrity()
    resumed = Request(request_id="x", prompt_token_ids=prompt, emitted_token_ids=begun, params=SAMPLED)
    behind = [token for delta in run(tiny_engine(), [resumed])["x"] for token in delta.token_ids]
    assert forked == (*begun, *behind[:3])
    engine.extend("f", len(prompt), begun, 5)  # the target turned out to have it: the fork goes on
    while engine.has_work():
        for delta in engine.step():
            assert delta.token_ids == tuple(behind[:5])
    for name in ("d", "f"):
        engine.abort(name)
    assert engine.stats().num_free_blocks == engine.stats().num_blocks


def test_what_was_written_ahead_stands_while_it_agrees() -> None:
    engine = tiny_engine()
    prompt = ragged_prompts(1, seed=9)[0]
    engine.open(Request(request_id="d", prompt_token_ids=prompt, params=GREEDY))
    engine.extend("d", len(prompt), [], 2, 4)
    ids: tuple[int, ...] = ()
    while engine.has_work():
        for delta in engine.step():
            ids = delta.token_ids
    assert len(ids) == 6
    before = engine.stats().num_computed_tokens
    engine.extend("d", len(prompt), list(ids[:4]), 2)
    (delta,) = engine.step()
    assert delta.token_ids == ids[4:]
    assert engine.stats().num_computed_tokens == before, "nothing was computed again"
    wrong = (ids[4] + 1) % VOCAB_SIZE
    engine.extend("d", len(prompt) + 4, [wrong], 1)
    (delta,) = engine.step()
    assert delta.start == 5
    assert engine.stats().num_computed_tokens - before <= 5


def test_a_draft_that_is_unsure_pauses() -> None:
    engine = tiny_engine()
    prompt = ragged_prompts(1, seed=9)[0]
    params = GenerationParams(max_new_tokens=20, logprobs=0, assistant_confidence_threshold=1.0)
    engine.open(Request(request_id="d", prompt_token_ids=prompt, params=params))
    engine.extend("d", len(prompt), [], 5)
    deltas = []
    while engine.has_work():
        deltas += engine.step()
    assert [len(delta.token_ids) for delta in deltas] == [1]
