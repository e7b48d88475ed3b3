"""Whatever the OpenAPI allows, and what it does not: never a failure of the server's, and nobody else notices.

``python -m tests.chaos fuzz`` does the same at length, with real engines.
"""

from tests.chaos.fuzz import LIMITS, canary, fuzz
from tests.serve_app.conftest import Server
from tests.serve_app.fakes import FakeClient

NUM_EXAMPLES = 8


def test_nothing_that_a_client_sends_is_the_servers_failure() -> None:
    with Server(FakeClient(pause=0.001), limits=LIMITS).running() as server:
        url = f"http://127.0.0.1:{server.port}"
        with canary(url) as bird:
            tally = fuzz(url, NUM_EXAMPLES, first_seed=1)
        assert not server.fake.running
    assert not tally.broken
    assert len(bird.texts) == 1 and not bird.problems and bird.num_streams > 3
    seen = set().union(*tally.statuses.values())
    assert 200 in seen and {400, 422} & seen
    assert {"POST /v1/completions", "POST /v1/chat/completions", "POST /generate"} <= set(tally.statuses)
