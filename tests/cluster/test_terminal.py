from collections.abc import Sequence

import click
import pytest

from actors.engine.request import Delta
from cluster.terminal import DRAFTED, RunSummary, TokenPrinter

# Bytes as tokens: a character of several bytes is several tokens.
TEXT = "né 日本 🙂 end"
PROMPT = list(b"Once ")


def decode(ids: Sequence[int]) -> str:
    return bytes(ids).decode("utf-8", errors="replace")


def deltas(data: bytes, num_per_step: int, num_accepted: int = 0) -> list[Delta]:
    return [
        Delta(request_id="r", start=i, token_ids=tuple(data[i : i + num_per_step]), num_accepted=num_accepted)
        for i in range(0, len(data), num_per_step)
    ]


@pytest.mark.parametrize("num_per_step", [1, 2, 3, 7, 100])
def test_text_comes_whole_however_it_is_cut(capsys: pytest.CaptureFixture[str], num_per_step: int) -> None:
    printer = TokenPrinter(decode, PROMPT)
    for delta in deltas(TEXT.encode(), num_per_step):
        printer.put(delta)
        assert "\N{REPLACEMENT CHARACTER}" not in capsys.readouterr().out
    printer.end()


@pytest.mark.parametrize("num_per_step", [1, 2, 3, 7, 100])
def test_nothing_is_lost_or_said_twice(capsys: pytest.CaptureFixture[str], num_per_step: int) -> None:
    printer = TokenPrinter(decode, PROMPT)
    for delta in deltas(TEXT.encode(), num_per_step, num_accepted=num_per_step):
        printer.put(delta)
    printer.end()
    assert capsys.readouterr().out == TEXT + "\n"


def test_an_unfinished_character_is_shown_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    printer = TokenPrinter(decode, PROMPT)
    for delta in deltas("a🙂".encode()[:-1], 2):
        printer.put(delta)
    printer.end()
    assert capsys.readouterr().out == "a\N{REPLACEMENT CHARACTER}\n"


def test_accepted_tokens_are_coloured(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[tuple[str, str | None]] = []
    monkeypatch.setattr(click, "secho", lambda text, fg=None, nl=True: said.append((text, fg)))
    TokenPrinter(decode, PROMPT).put(Delta(request_id="r", start=0, token_ids=tuple(b"abc"), num_accepted=2))
    assert said == [("a", DRAFTED), ("b", DRAFTED), ("c", None)]


def test_figures_of_a_run() -> None:
    summary = RunSummary()
    summary.add(Delta(request_id="r", start=0, token_ids=(1,)), 0.5)
    summary.add(Delta(request_id="r", start=1, token_ids=(1, 2, 3), num_drafted=4, num_accepted=3), 2.0)
    line = summary.line(seed=7)
    assert "4 tokens" in line
    assert "2.0 tokens/s" in line
    assert "first after 0.50 s" in line
    assert "3 of 4 drafted tokens accepted (75%)" in line
    assert line.endswith("seed 7")
    assert "seed" not in summary.line(None)


def test_a_run_without_a_token_has_figures_too() -> None:
    assert RunSummary().line(None).startswith("0 tokens")
