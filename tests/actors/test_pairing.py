"""Who works for whom."""

from actors.pairing import Load, choose_draft, choose_target


def test_the_least_loaded_target_takes_a_request() -> None:
    loads = [Load("a", 3, 10), Load("b", 2, 500), Load("c", 2, 40)]
    assert choose_target(loads) == "c"
    assert choose_target([]) is None


def test_among_equal_drafts_the_one_that_is_paired_already_is_chosen() -> None:
    loads = [Load("a", 2, 0), Load("b", 2, 0)]
    assert choose_draft(loads, {}) == "a"
    assert choose_draft(loads, {"b": 2}) == "b"
    assert choose_draft([Load("a", 1, 0), Load("b", 2, 0)], {"b": 2}) == "a"
    assert choose_draft([], {"b": 1}) is None
