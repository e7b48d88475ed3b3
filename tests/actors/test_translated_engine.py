"""A draft's engine behind a translation: the target's ids go in and come out, the draft's own are computed."""

from collections.abc import Sequence

import pytest

from actors.engine.errors import RequestError
from actors.engine.params import GenerationParams
from actors.engine.request import Delta, EngineStats, FinishReason, Request
from actors.translated_engine import NOTHING, TranslatedEngine
from actors.translation import Translation
from actors.vocabulary import Vocabulary
from tests.actors.tokenizers_of_other_kinds import byte_level, sentencepiece

TARGET = Vocabulary(byte_level())
DRAFT = Vocabulary(sentencepiece())
END, DRAFT_END = TARGET.ids["</s>"], DRAFT.ids["</s>"]
TEXT = "You may reproduce the Work, in any medium, with or without modifications; the conditions stand above."


class Parrot:
    """Knows how one text goes on, in the draft's ids; says so as far as it is asked to."""

    def __init__(self, text: str) -> None:
        self.ids = [*DRAFT.encode(text), DRAFT_END]
        self.known: dict[str, list[int]] = {}
        self.params: dict[str, GenerationParams] = {}
        self.shifts: list[int] = []
        self.num_coupled = 0
        self.num_step_tokens = 0
        self.fails = False
        self._deltas: list[Delta] = []
        self._num_prompt = 0

    def couple(self, noise_ids: Sequence[int]) -> None:
        self.num_coupled = len(noise_ids)

    def shift_noise(self, request_id: str, num_positions: int) -> None:
        self.shifts.append(num_positions)

    def open(self, request: Request) -> None:
        self.known[request.request_id] = list(request.prompt_token_ids)
        self.params[request.request_id] = request.params
        self._num_prompt = len(request.prompt_token_ids)

    def extend(
        self, request_id: str, start: int, token_ids: Sequence[int], num_new_tokens: int, num_ahead: int = 0
    ) -> None:
        known = self.known[request_id]
        assert start <= len(known)
        known[start:] = token_ids
        place = next((n for n in range(len(self.ids)) if self.ids[:n] == known), 0)
        reason = FinishReason.ERROR if self.fails else None
        ahead = tuple(self.ids[place : place + num_new_tokens])
        self._deltas.append(
            Delta(request_id=request_id, start=len(known) - self._num_prompt, token_ids=ahead, finish_reason=reason)
        )

    def step(self) -> list[Delta]:
        deltas, self._deltas = self._deltas, []
        return deltas

    def abort(self, request_id: str) -> None:
        self.known.pop(request_id, None)

    def stats(self) -> EngineStats:
        return EngineStats()


def make_engine(text: str = TEXT, **options: object) -> tuple[TranslatedEngine, Parrot]:
    parrot = Parrot(text)
    translation = Translation(TARGET, DRAFT, {DRAFT_END: END}, **options)  # type: ignore[arg-type]
    return TranslatedEngine(parrot, parrot, translation), parrot  # type: ignore[arg-type]


def request(num_prompt: int, **params: object) -> Request:
    ids = tuple(TARGET.encode(TEXT))
    return Request(
        request_id="r",
        prompt_token_ids=ids[:num_prompt],
        params=GenerationParams(max_new_tokens=10, **params),  # type: ignore[arg-type]
    )


def test_proposals_are_the_targets_ids_behind_its_own() -> None:
    engine, parrot = make_engine()
    ids = TARGET.encode(TEXT)
    engine.open(request(6))
    assert parrot.num_coupled == max(DRAFT.ids.values()) + 1
    position = 6
    engine.extend("r", 6, (), 4)
    num_right = num_proposed = 0
    while position < len(ids):
        (delta,) = engine.step()
        assert delta.start == position - 6
        right = 0
        while right < len(delta.token_ids) and [*ids, END][position + right] == delta.token_ids[right]:
            right += 1
        num_right, num_proposed = num_right + right, num_proposed + len(delta.token_ids)
        new = ids[position : position + right + 1]
        engine.extend("r", position, new, 4)
        position += len(new)
    assert num_right > 0.6 * num_proposed, "what lies behind the draft's last word is a guess"
    assert parrot.shifts[-1] == len(ids) - len(parrot.known["r"])


def test_the_end_of_the_text_is_proposed_as_the_targets_own() -> None:
    engine, _ = make_engine()
    ids = TARGET.encode(TEXT)
    engine.open(request(len(ids)))
    engine.extend("r", len(ids), (), 3)
    (delta,) = engine.step()
    assert delta.token_ids == (END,)


def test_what_cannot_be_said_is_answered_all_the_same() -> None:
    engine, parrot = make_engine()
    engine.open(request(6))
    parrot.ids = [*parrot.known["r"], DRAFT.ids["<unk>"]]
    engine.extend("r", 6, (), 2)
    (delta,) = engine.step()
    assert delta.token_ids == (NOTHING,)


def test_parameters_are_said_in_the_drafts_ids() -> None:
    engine, parrot = make_engine()
    comma, odd = TARGET.encode(",")[0], TARGET.encode("Slipstream")[0]
    bias = {comma: -1.0, odd: 2.0}
    engine.open(request(4, eos_token_id=(END,), do_sample=True, seed=7, temperature=0.5, logit_bias=bias, min_p=0.1))
    params = parrot.params["r"]
    assert (params.eos_token_id, params.seed, params.temperature, params.min_p) == ((DRAFT_END,), 7, 0.5, 0.1)
    assert params.logit_bias is not None and params.logit_bias[DRAFT.by_bytes[b","]] == -1.0
    assert params.max_new_tokens == 40


def test_a_text_begins_as_the_drafts_model_expects() -> None:
    begin = DRAFT.ids["<s>"]
    engine, parrot = make_engine(draft_prefix=(begin,))
    engine.open(request(5))
    assert parrot.known["r"][0] == begin
    parrot.ids = [begin, *parrot.ids]
    engine.extend("r", 5, (), 2)
    (delta,) = engine.step()
    assert delta.start == 0 and delta.token_ids[0] == TARGET.encode(TEXT)[5]


def test_unknown_sequences_and_failures() -> None:
    engine, parrot = make_engine()
    with pytest.raises(KeyError):
        engine.extend("r", 0, (1,), 2)
    engine.open(request(6))
    with pytest.raises(KeyError):
        engine.extend("r", 9, (1,), 2)
    parrot.fails = True
    engine.extend("r", 6, (), 2)
    assert [delta.finish_reason for delta in engine.step()] == [FinishReason.ERROR]
    assert engine.fork("r", "f", 3, 1) is None
    with pytest.raises(RequestError):
        engine.add(request(6))
    engine.abort("r")
    assert not parrot.known
