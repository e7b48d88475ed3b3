import io

from actors.status import ClusterStats
from cluster.batch.progress import LINE_INTERVAL, Drafting, Progress, Report
from tests.actors.fakes import FakeClock


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def stats(num_drafted: int, num_accepted: int) -> ClusterStats:
    return ClusterStats(num_draft_tokens=num_drafted, num_accepted_tokens=num_accepted)


def test_acceptance_counts_from_the_jobs_beginning_over_restarts_of_the_router() -> None:
    drafting = Drafting()
    assert drafting.rate is None
    for counters in (stats(1000, 100), stats(1100, 180), stats(50, 10), stats(100, 30)):
        drafting.note(counters)
    assert (drafting.num_drafted, drafting.num_accepted) == (200, 110)
    assert drafting.rate == 0.55


def test_a_log_gets_a_line_now_and_then() -> None:
    log, clock = io.StringIO(), FakeClock()
    progress = Progress(total=10, done=2, stream=log, clock=clock)
    clock.advance(LINE_INTERVAL - 1)
    progress.advance(2, 30, 300)
    assert log.getvalue() == ""
    clock.advance(1)
    progress.drafting = Drafting(num_drafted=4, num_accepted=1)
    progress.advance(2, 30, 300)
    progress.advance(1, 30, 300)
    assert log.getvalue() == "6/10 requests, 40.0 tokens/s, 25% accepted, 00:15 left\n"


def test_a_terminal_gets_a_bar() -> None:
    terminal, clock = Terminal(), FakeClock()
    progress = Progress(total=4, done=0, stream=terminal, clock=clock)
    clock.advance(2.0)
    progress.advance(4, 0, 100)
    progress.close()
    assert "100%" in terminal.getvalue()
    assert "4/4" in terminal.getvalue()
    assert "50.0 tokens/s" in terminal.getvalue()


def test_the_report_says_it_in_words() -> None:
    report = Report(
        num_requests=10,
        num_done_before=4,
        num_failed=1,
        num_prompt_tokens=100,
        num_completion_tokens=50,
        tokens_per_second=25.0,
        acceptance_rate=0.5,
        start_seconds=3.0,
        seconds=2.0,
        output="out.jsonl",
    )
    assert report.lines() == [
        "10 requests done (4 of them by an earlier run), 1 failed; results in out.jsonl",
        "50 tokens behind 100 of prompts in 2.0 s, 25.0 tokens/s; 50% of drafts accepted; "
        "the cluster took 3.0 s to be ready",
    ]
