"""A short run of ``python -m tests.conformance.same_tokens``."""

from pathlib import Path

from tests.conformance.same_tokens import DRAFTERS, WAYS, Bench, compare, totals


def test_no_way_to_draft_shows_in_the_tokens(tmp_path: Path) -> None:
    ways = [way for way in WAYS if way.drafter == "none" or (way.num_assistant_tokens in (1, 4, 8) and way.is_crowded)]
    sums = totals(compare(Bench(tmp_path), num_tokens=0, num_new=12, ways=[*ways, *WAYS[4::13]]))
    assert set(sums) == set(DRAFTERS)
    assert {name: count.num_differences for name, count in sums.items()} == dict.fromkeys(DRAFTERS, 0)
    rates = {name: count.num_accepted_tokens / max(1, count.num_draft_tokens) for name, count in sums.items()}
    assert sums["none"].num_draft_tokens == 0
    assert rates["draft a"] > 0.3
    assert rates["draft b"] < rates["draft a"]
    assert rates["other vocabulary"] > 0.8 * rates["draft a"], "as good as the same weights with the same ids"
    assert sums["prompt lookup"].num_accepted_tokens > 0
    assert sums["early exit"].num_draft_tokens > 0
