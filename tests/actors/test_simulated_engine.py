"""The engine without a model: its text depends on seed and position alone, its costs are those that are set."""

import msgspec
import pytest

from actors.config import SimulationConfig, WorkerConfig
from actors.engine.config import EngineConfig, ModelConfig
from actors.engine.errors import ConfigError, OverloadedError, RequestError
from actors.engine.params import GenerationParams
from actors.engine.request import Delta, FinishReason, Request
from actors.engine_factory import load_engine
from actors.simulated_engine import SimulatedEngine
from actors.simulated_sequence import step_seconds, token_at
from tests.actors.fakes import FakeClock, make_info


def make_engine(simulation: SimulationConfig | None = None, **config: object) -> SimulatedEngine:
    """An engine whose waits are not waited for."""
    return SimulatedEngine(
        simulation or SimulationConfig(),
        msgspec.convert({"block_size": 4, "num_blocks": 64, **config}, EngineConfig),
        wait=lambda seconds: None,
    )


def make_request(name: str = "a", num_prompt: int = 5, **params: object) -> Request:
    return Request(
        request_id=name,
        prompt_token_ids=tuple(range(num_prompt)),
        params=msgspec.convert({"seed": 3, **params}, GenerationParams),
    )


def run(engine: SimulatedEngine) -> list[Delta]:
    """Step until nothing is left."""
    deltas: list[Delta] = []
    while engine.has_work():
        deltas += engine.step()
        engine.check_integrity()
    return deltas


def drafted(engine: SimulatedEngine, draft: SimulatedEngine, request: Request, k: int) -> list[Delta]:
    """Run a request to its end with a draft in front of it, a round at a time."""
    engine.add(request)
    draft.open(request)
    ids, start, deltas = list(request.prompt_token_ids), len(request.prompt_token_ids), []
    while engine.num_unfinished():
        draft.extend(request.request_id, start, ids[start:], k)
        [proposal] = run(draft)
        engine.propose(request.request_id, len(ids), proposal.token_ids)
        [delta] = engine.step()
        start = len(ids)
        ids += delta.token_ids
        deltas.append(delta)
    return deltas


def text(deltas: list[Delta]) -> list[int]:
    return [token_id for delta in deltas for token_id in delta.token_ids]


def test_tokens_depend_on_seed_and_position_alone() -> None:
    plain = make_engine()
    plain.add(make_request(max_new_tokens=40))
    expected = [token_at(3, position, 1024) for position in range(5, 45)]
    assert text(run(plain)) == expected
    for k in (1, 4):
        engine, draft = make_engine(), make_engine(SimulationConfig(acceptance=0.6))
        assert text(drafted(engine, draft, make_request(max_new_tokens=40), k)) == expected
    resumed = make_engine()
    resumed.add(msgspec.structs.replace(make_request(max_new_tokens=40), emitted_token_ids=tuple(expected[:11])))
    assert text(run(resumed)) == expected[11:]


@pytest.mark.parametrize("acceptance", [0.0, 0.5, 0.8, 1.0])
def test_drafts_are_right_as_often_as_was_set(acceptance: float) -> None:
    engine, draft = make_engine(num_blocks=2048), make_engine(SimulationConfig(acceptance=acceptance), num_blocks=2048)
    drafted(engine, draft, make_request(max_new_tokens=4000), k=1)
    stats = engine.stats()
    assert stats.num_accepted_tokens / stats.num_draft_tokens == pytest.approx(acceptance, abs=0.03)


def test_a_forward_takes_the_time_of_its_tokens() -> None:
    waits: list[float] = []
    simulation = SimulationConfig(step_times=((1, 0.010), (11, 0.020), (21, 0.040)))
    engine = SimulatedEngine(simulation, EngineConfig(max_num_batched_tokens=16), wait=waits.append)
    engine.add(make_request(num_prompt=21, max_new_tokens=3))
    run(engine)
    assert waits == pytest.approx([0.030, 0.014, 0.010, 0.010])  # 16 and 5 of the prompt, then one token a step
    assert step_seconds(simulation.step_times, 31) == pytest.approx(0.060)
    assert step_seconds((), 31) == 0.0


def test_blocks_are_held_and_freed() -> None:
    engine = make_engine(num_blocks=10, max_num_seqs=8)
    for name in "abcd":
        engine.add(make_request(name, max_new_tokens=11))  # 16 ids: 4 blocks
    first = engine.step()
    assert [delta.request_id for delta in first] == ["a", "b"]
    assert (engine.stats().num_free_blocks, engine.stats().num_waiting) == (2, 2)
    engine.abort("a")
    assert engine.stats().num_free_blocks == 6
    run(engine)
    assert engine.stats().num_free_blocks == 10
    assert engine.num_unfinished() == 0


def test_parked_drafts_give_their_blocks_to_others() -> None:
    draft = make_engine(num_blocks=8)
    for name in "abc":
        draft.open(make_request(name, max_new_tokens=11))
        draft.extend(name, 5, (), 2)
        run(draft)
    draft.check_integrity()
    assert draft.stats().num_parked == 3
    draft.extend("a", 5, (1,), 2)  # its blocks were taken; it pays for its prompt again
    before = draft.stats().num_computed_tokens
    run(draft)
    assert draft.stats().num_computed_tokens - before == 7


def test_a_held_sequence_waits() -> None:
    engine = make_engine()
    engine.add(make_request())
    engine.step()
    engine.hold("a")
    assert not engine.has_work()
    engine.release("a")
    assert engine.has_work()


def test_what_is_refused() -> None:
    engine = make_engine(max_num_waiting=1)
    engine.add(make_request("a"))
    with pytest.raises(RequestError, match="already"):
        engine.add(make_request("a"))
    with pytest.raises(OverloadedError):
        engine.add(make_request("b"))
    with pytest.raises(RequestError, match="vocabulary"):
        make_engine(SimulationConfig(vocab_size=3)).add(make_request())
    with pytest.raises(KeyError):
        engine.extend("c", 0, (1,), 1)


def test_time_ends_a_sequence() -> None:
    clock = FakeClock()
    engine = SimulatedEngine(SimulationConfig(), EngineConfig(), clock=clock)
    engine.add(make_request(max_time=1.0, max_new_tokens=100))
    assert engine.step()[0].finish_reason is None
    clock.advance(1.5)
    assert engine.step()[0].finish_reason is FinishReason.TIME


def test_it_is_chosen_and_labelled() -> None:
    config = WorkerConfig(model=ModelConfig(model="demo"), simulation=SimulationConfig(vocab_size=50))
    engine, info = load_engine(make_info("target-0"), config)
    assert isinstance(engine, SimulatedEngine)
    assert (info.quantization, info.devices, info.vocab_size) == ("simulated", ("simulated",), 50)
    assert "simulated" in info.notes[0]
    with pytest.raises(ConfigError, match="step_times"):
        SimulationConfig(step_times=((4, 0.1), (2, 0.2)))
