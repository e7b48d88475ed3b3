"""Whatever is asked of an engine in whatever order, its books stay right and every block comes home."""

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from actors.engine.params import GenerationParams
from actors.engine.request import Request
from tests.actors.engine.harness import tiny_engine
from tests.actors.engine.tiny_models import VOCAB_SIZE

IDS = st.lists(st.integers(4, VOCAB_SIZE - 1), min_size=1, max_size=20)
PREFIX = [5, 6, 7, 8, 9, 10, 11, 12, 13]  # begun with often, so that blocks are shared


class EngineMachine(RuleBasedStateMachine):
    """Targets, drafts and beam searches in one engine with too few blocks, sampled with real forwards."""

    def __init__(self) -> None:
        super().__init__()
        self.engine = tiny_engine(num_blocks=24, max_num_seqs=5, max_num_batched_tokens=24)
        self.targets: dict[str, list[int]] = {}
        self.drafts: dict[str, list[int]] = {}
        self.searches: dict[str, Request] = {}
        self.count = 0

    def _request(self, ids: list[int], shared: bool, new: int, sampled: bool) -> Request:
        self.count += 1
        return Request(
            request_id=f"q{self.count}",
            prompt_token_ids=tuple(PREFIX + ids if shared else ids),
            params=GenerationParams(max_new_tokens=new, do_sample=sampled, seed=self.count, eos_token_id=(2,)),
        )

    @rule(ids=IDS, shared=st.booleans(), new=st.integers(1, 30), sampled=st.booleans())
    def add(self, ids: list[int], shared: bool, new: int, sampled: bool) -> None:
        request = self._request(ids, shared, new, sampled)
        self.engine.add(request)
        self.targets[request.request_id] = list(request.prompt_token_ids)

    @rule(ids=IDS, shared=st.booleans(), new=st.integers(1, 12), beams=st.integers(2, 4), sampled=st.booleans())
    def search(self, ids: list[int], shared: bool, new: int, beams: int, sampled: bool) -> None:
        request = self._request(ids, shared, new, sampled)
        params = msgspec.structs.replace(request.params, num_beams=beams)
        request = msgspec.structs.replace(request, params=params)
        self.engine.add(request)
        self.searches[request.request_id] = request

    @rule(ids=IDS, shared=st.booleans(), new=st.integers(1, 30))
    def open(self, ids: list[int], shared: bool, new: int) -> None:
        request = self._request(ids, shared, new, sampled=False)
        self.engine.open(request)
        self.drafts[request.request_id] = list(request.prompt_token_ids)

    @precondition(lambda self: self.drafts)
    @rule(data=st.data(), ids=IDS, goal=st.integers(0, 5))
    def extend(self, data: st.DataObject, ids: list[int], goal: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.drafts)))
        known = self.drafts[name]
        start = data.draw(st.integers(1, len(known)))
        if start + len(ids) < 60:
            self.engine.extend(name, start, ids, goal)
            self.drafts[name] = known[:start] + ids

    @precondition(lambda self: self.targets)
    @rule(data=st.data(), ids=IDS, back=st.integers(-1, 3))
    def propose(self, data: st.DataObject, ids: list[int], back: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.targets)))
        self.engine.propose(name, max(0, len(self.targets[name]) - back), ids)

    @precondition(lambda self: self.targets)
    @rule(data=st.data(), held=st.booleans())
    def hold(self, data: st.DataObject, held: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.targets)))
        (self.engine.hold if held else self.engine.release)(name)

    @precondition(lambda self: self.targets or self.drafts or self.searches)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted([*self.targets, *self.drafts, *self.searches])))
        self.engine.abort(name)
        self.targets.pop(name, None)
        self.searches.pop(name, None)
        self.drafts.pop(name, None)

    @rule(count=st.integers(1, 6))
    def step(self, count: int) -> None:
        for _ in range(count):
            for delta in self.engine.step():
                if delta.request_id in self.drafts:
                    continue
                assert delta.error == ""
                if delta.request_id in self.searches:
                    if delta.finish_reason is not None:
                        request = self.searches.pop(delta.request_id)
                        assert len(delta.beams or ()) == request.params.num_beams
                    continue
                self.targets[delta.request_id] += delta.token_ids
                if delta.finish_reason is not None:
                    del self.targets[delta.request_id]
            self.engine.check_integrity()

    @invariant()
    def books_are_right(self) -> None:
        self.engine.check_integrity()

    def teardown(self) -> None:
        for name in self.targets:
            self.engine.release(name)
        for _ in range(2000):
            if not self.engine.has_work():
                break
            self.engine.step()
        assert self.engine.num_unfinished() == 0
        for name in self.drafts:
            self.engine.abort(name)
        self.engine.check_integrity()
        stats = self.engine.stats()
        assert stats.num_free_blocks == stats.num_blocks
        assert stats.num_running == stats.num_waiting == stats.num_parked == 0


TestEngineState = EngineMachine.TestCase
TestEngineState.settings = settings(
    max_examples=20, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
