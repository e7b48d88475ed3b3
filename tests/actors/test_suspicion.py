"""Who killed a target: those that never got anywhere there, tried apart; not those that just were on it."""

from actors.journal import Journal
from actors.placement import Entry, Placement
from actors.suspicion import EARLY_TOKENS, MAX_NUM_EARLY_DEATHS, Suspicion
from actors.unrest import MAX_LENIENCE, WINDOW, Unrest
from tests.actors.fakes import FakeClock, make_request


def after_death(num_tokens: int, suspicion: Suspicion | None = None) -> Suspicion:
    suspicion = suspicion or Suspicion()
    suspicion.placed()
    suspicion.emitted(num_tokens)
    suspicion.died(is_proven=False)
    return suspicion


def test_a_request_that_got_somewhere_is_no_suspect() -> None:
    suspicion = Suspicion()
    for _ in range(50):
        after_death(EARLY_TOKENS, suspicion)
    assert not suspicion.is_suspect


def test_two_silent_deaths_convict_and_a_token_between_them_clears() -> None:
    suspicion = after_death(0)
    assert suspicion.is_suspect
    assert not suspicion.is_convicted()
    assert after_death(0, suspicion).is_convicted()
    suspicion = after_death(1, after_death(0))
    assert not suspicion.is_suspect
    assert not after_death(0, suspicion).is_convicted()


def test_one_that_always_kills_a_little_later_is_found_as_well() -> None:
    suspicion = Suspicion()
    for _ in range(MAX_NUM_EARLY_DEATHS):
        assert not suspicion.is_convicted()
        after_death(3, suspicion)
    assert suspicion.is_convicted()


def test_deaths_that_it_never_met_speak_for_it() -> None:
    clock = FakeClock()
    unrest = Unrest(clock)
    suspicion = Suspicion()
    for _ in range(2):
        unrest.note([suspicion])
        after_death(0, suspicion)
    assert suspicion.is_convicted(unrest.lenience(suspicion)), "where nothing else dies, two are enough"
    unrest.note([Suspicion()])
    assert not suspicion.is_convicted(unrest.lenience(suspicion))
    after_death(0, suspicion)
    assert suspicion.is_convicted(unrest.lenience(suspicion))
    for _ in range(100):
        unrest.note()
    assert unrest.lenience(suspicion) == MAX_LENIENCE
    clock.advance(WINDOW + 1)
    assert unrest.lenience(suspicion) == 0


def test_a_proven_failure_counts_however_far_it_had_come() -> None:
    suspicion = Suspicion()
    suspicion.emitted(100)
    suspicion.died(is_proven=True)
    assert suspicion.is_suspect


def table(*names: str) -> tuple[Placement, dict[str, Entry]]:
    placement = Placement()
    entries = {}
    for moment, name in enumerate(names):
        entry = Entry(Journal(make_request(name)), "client-a", "demo", arrived_at=0.0, waiting_since=0.0)
        placement.add(entry)
        placement.attach(entry, "t", now=float(moment))
        entries[name] = entry
    return placement, entries


def names(entries: list[Entry]) -> set[str]:
    return {entry.request_id for entry in entries}


def test_where_there_is_a_suspect_nobody_else_is_blamed() -> None:
    placement, entries = table("a", "b", "c")
    assert names(placement.suspects("t", num_waiting=0)) == {"a", "b", "c"}
    entries["b"].suspicion.died(is_proven=False)
    assert names(placement.suspects("t", num_waiting=0)) == {"b"}


def test_those_that_queued_or_never_arrived_are_not_blamed() -> None:
    placement, entries = table("a", "b", "c", "d")
    entries["a"].suspicion.emitted(5)
    entries["b"].num_reports_without = 1
    assert names(placement.queued("t", num_waiting=1)) == {"d"}
    assert names(placement.suspects("t", num_waiting=1)) == {"a", "c"}
