"""Structured output through the whole cluster: deaths and a bad network change no token of it."""

import json
import random
from functools import cache

import jsonschema
import msgspec
import pytest

from actors.config import ROUTER_NAME
from actors.draft_loop import DraftLoop
from actors.engine.engine import Engine
from actors.engine.grammar import ChoiceGrammar, Grammar, JsonSchemaGrammar, RegexGrammar
from actors.engine.params import GenerationParams
from actors.engine.request import Request
from actors.target_loop import TargetLoop
from tests.actors.fakes import make_info
from tests.actors.simulation import Simulation
from tests.conformance.pairs import EOS, engine, run, text, tokenizer
from tests.conformance.schemas import SCHEMAS

NAMES = ("object nested", "invoice", "array of objects", "anyOf objects", "chain")
GRAMMARS: dict[str, Grammar] = {
    **{name: JsonSchemaGrammar(schema=SCHEMAS[name]) for name in NAMES},
    "regex": RegexGrammar(pattern="([a-z]{2,5} ){6}end"),
    "choice": ChoiceGrammar(choices=("a rather long answer to choose", "a rather short one", "none of them")),
}


class EngineSimulation(Simulation):
    """The simulation with real engines over tiny models."""

    def __init__(self, *, can_draft_read: bool = True, seed: int = 0, loss: float = 0.0, twice: float = 0.0) -> None:
        self.can_draft_read = can_draft_read
        super().__init__(seed=seed, loss=loss, twice=twice)

    def start(self, worker_id: str) -> None:
        self._pid += 1
        is_draft = worker_id.startswith("draft")
        built = engine(is_draft=is_draft, has_tokenizer=not is_draft or self.can_draft_read)
        info = make_info(worker_id, "draft" if is_draft else "target", pid=self._pid)
        info = msgspec.structs.replace(info, vocab_size=built.vocab_size)
        loop_class = DraftLoop if is_draft else TargetLoop
        loop = loop_class(built, self.network, info, ROUTER_NAME, self.config, self.clock)
        self.loops[worker_id], self.engines[worker_id] = loop, built  # type: ignore[assignment]
        self.network.receivers[worker_id] = loop.handle


def requests(*, do_sample: bool) -> list[Request]:
    """One request a grammar; every other one goes through transformers' list of processors."""
    return [
        Request(
            request_id=name,
            prompt_token_ids=tuple(tokenizer().encode(name)),
            params=GenerationParams(
                max_new_tokens=1000,
                eos_token_id=(EOS,),
                grammar=grammar,
                do_sample=do_sample,
                seed=index,
                no_repeat_ngram_size=30 if index % 2 else None,
            ),
        )
        for index, (name, grammar) in enumerate(GRAMMARS.items())
    ]


@cache
def undisturbed(*, do_sample: bool) -> dict[str, tuple[int, ...]]:
    """What one target emits alone, without drafts."""
    return {name: tuple(ids) for name, (ids, _) in run(engine(), requests(do_sample=do_sample)).items()}


def disturb(simulation: EngineSimulation, source: random.Random) -> None:
    """Kill something, and start it again."""
    victim = source.choice(["target-0", "target-1", "draft-0", "router"])
    if victim == "router":
        simulation.start_router()
        return
    simulation.kill(victim, is_noticed=source.random() < 0.8)
    simulation.start(victim)


@pytest.mark.parametrize("do_sample", [False, True], ids=["greedy", "sampled"])
@pytest.mark.parametrize("seed", range(2))
def test_deaths_and_losses_change_no_token(seed: int, do_sample: bool) -> None:
    source = random.Random(seed)
    simulation = EngineSimulation(seed=seed, loss=0.02, twice=0.05)
    for worker_id in ("target-0", "target-1", "draft-0"):
        simulation.start(worker_id)
    simulation.submit(requests(do_sample=do_sample))
    num_disturbances = 0
    while simulation.open_ids():
        for _ in range(source.randint(5, 40)):
            simulation.turn()
        if num_disturbances < 4 and simulation.open_ids():
            num_disturbances += 1
            disturb(simulation, source)
    assert num_disturbances >= 3, "they came in the middle of streams"
    assert not simulation.errors
    assert not simulation.refusals
    emitted = {name: simulation.emitted(name) for name in GRAMMARS}
    assert emitted == undisturbed(do_sample=do_sample)
    for name in NAMES:
        jsonschema.validate(json.loads(text(emitted[name])), SCHEMAS[name], jsonschema.Draft202012Validator)


@pytest.mark.parametrize("can_draft_read", [True, False])
def test_a_draft_that_cannot_read_the_grammar_costs_speed_alone(can_draft_read: bool) -> None:
    simulation = EngineSimulation(can_draft_read=can_draft_read)
    simulation.start("target-0")
    simulation.start("draft-0")
    simulation.submit(requests(do_sample=True))
    simulation.run()
    assert {name: simulation.emitted(name) for name in GRAMMARS} == undisturbed(do_sample=True)
    target = simulation.engines["target-0"]
    assert isinstance(target, Engine)
    rate = target.stats().num_accepted_tokens / target.stats().num_draft_tokens
    assert (rate > 0.3) == can_draft_read
