"""Over HTTP, under Serve: an actor that is killed in the middle of a stream leaves no trace in it."""

import json
import os
import signal

import psutil

from tests.served import ROLES, Served, served, simulated

NUM_TOKENS = 300


def kill(server: Served, role: str) -> None:
    """End the process of the one actor of a role, as the kernel does when it is out of memory."""
    processes = psutil.Process(server.process.pid).children(recursive=True)
    (victim,) = [process for process in processes if ROLES[role] in " ".join(process.cmdline())]
    os.kill(victim.pid, signal.SIGKILL)


def stream_text(server: Served, victim: str) -> str:
    """The text of a stream during which an actor dies, once some of it is there."""
    connection = server.request(max_tokens=NUM_TOKENS, stream=True)
    connection.timeout = 120
    response = connection.getresponse()
    texts: list[str] = []
    for line in response:
        data = line.decode().removeprefix("data: ").strip()
        if not data or data == "[DONE]":
            continue
        event = json.loads(data)
        assert "error" not in event, event
        texts += [choice["text"] for choice in event["choices"]]
        if victim and len(texts) == 20:
            kill(server, victim)
            victim = ""
    connection.close()
    assert not victim, "it died in the middle"
    return "".join(texts)


def test_no_death_shows_in_a_stream() -> None:
    with served(simulated(step_times=((1, 0.02),), has_draft=True)) as server:
        expected = server.complete(max_tokens=NUM_TOKENS)["choices"][0]["text"]
        assert stream_text(server, "draft") == expected
        assert stream_text(server, "router") == expected
        assert stream_text(server, "target") == expected
