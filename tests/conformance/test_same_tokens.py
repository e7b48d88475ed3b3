"""A short run of ``python -m tests.conformance.same_tokens``."""

from pathlib import Path

from tests.conformance.same_tokens import DRAFTERS, WAYS, Bench, compare, totals


def test_no_way_to_draft_shows_in_the_tokens(tmp_path: Path) -> None:
    sums = totals(compare(Bench(tmp_path), num_tokens=0, num_new=10))
    assert set(sums) == set(DRAFTERS)
    assert {name: count.num_differences for name, count in sums.items()} == dict.fromkeys(DRAFTERS, 0)
    assert sum(count.num_tokens for count in sums.values()) > 50 * len(WAYS)
    rates = {name: count.num_accepted_tokens / max(1, count.num_draft_tokens) for name, count in sums.items()}
    assert sums["none"].num_draft_tokens == 0
    assert rates["draft a"] > 0.5
    assert rates["draft b"] < rates["draft a"]
    assert rates["other vocabulary"] > 0.8 * rates["draft a"], "as good as the same weights with the same ids"
    assert sums["prompt lookup"].num_accepted_tokens > 0
