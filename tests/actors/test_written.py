"""What is known to be drafted: judged once, dropped where it is contradicted."""

from actors.written import Verdict, Written


def test_ids_are_judged_when_their_positions_are_confirmed_and_only_once() -> None:
    written = Written()
    assert written.add(2, (7, 8, 9), [1, 2]) == Verdict()
    assert written.ahead(2) == (7, 8, 9)
    assert written.advance(2, (7, 5)) == Verdict(1, 1)
    assert written.ahead(4) == ()
    assert written.add(2, (7, 8, 9, 9), [1, 2, 7, 5]) == Verdict(), "it was found wrong already"


def test_what_comes_too_late_is_judged_all_the_same() -> None:
    written = Written()
    assert written.add(2, (7, 8, 9), [1, 2, 7, 8]) == Verdict(2, 0)
    assert written.ahead(4) == (9,)
    assert written.advance(4, (9,)) == Verdict(1, 0)


def test_longer_proposals_replace_shorter_ones_and_late_ones_do_not() -> None:
    written = Written()
    written.add(1, (1, 2), [0])
    written.add(1, (1, 2, 3), [0])
    written.add(1, (1,), [0])
    assert written.ahead(1) == (1, 2, 3)
    written.clear()
    assert written.ahead(1) == ()


def test_a_branch_waits_for_its_turn() -> None:
    written = Written()
    written.add(3, (4, 5, 6), [1, 2, 3])
    written.add(3, (4, 9, 8, 8), [1, 2, 3], fork=4)
    assert written.ahead(3) == (4, 5, 6), "second choices are not checked in place of first ones"
    assert written.advance(3, (4, 9)) == Verdict(1, 1, 1, 0)
    assert written.ahead(5) == (8, 8)
    assert written.advance(5, (8, 1)) == Verdict(1, 1)


def test_a_branch_says_nothing_where_the_first_choice_was_right() -> None:
    written = Written()
    written.add(3, (4, 5), [1, 2, 3])
    written.add(3, (9, 5), [1, 2, 3], fork=3)
    assert written.advance(3, (4, 5)) == Verdict(2, 0)
