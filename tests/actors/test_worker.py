"""The engine's thread: sleeps while there is nothing to do, wakes for a message, never dies in silence."""

import threading
import time

from actors.config import RouterConfig
from actors.messages import Deltas, Report, Start
from actors.target_loop import TargetLoop
from actors.worker import Worker
from tests.actors.fakes import POISON_ID, FakeEngine, ListLink, expected_tokens, make_info, make_request


def make_worker(engine: FakeEngine, interval: float = 0.05) -> tuple[Worker, ListLink, threading.Event]:
    link, failed = ListLink(), threading.Event()
    config = RouterConfig(report_interval=interval)
    loop = TargetLoop(engine, link, make_info("t"), "router", config, time.monotonic)
    return Worker(loop, interval, on_error=failed.set), link, failed


def test_it_serves_reports_and_stops() -> None:
    worker, link, failed = make_worker(FakeEngine())
    worker.start()
    request = make_request("r")
    worker.put(Start(request=request))
    time.sleep(0.3)
    assert worker.is_healthy()
    worker.stop()
    assert not worker.is_healthy()
    assert not failed.is_set()
    sent = link.take()
    items = [item for message in sent if isinstance(message, Deltas) for item in message.items]
    assert tuple(token_id for item in items for token_id in item.token_ids) == expected_tokens(request)
    assert 3 <= sum(isinstance(message, Report) for message in sent) <= 8


def test_a_long_forward_does_not_silence_it() -> None:
    worker, link, _ = make_worker(FakeEngine(step_time=0.5))
    worker.start()
    worker.put(Start(request=make_request("r", max_new_tokens=1)))
    time.sleep(0.45)
    repeats = [message for message in link.take() if isinstance(message, Report) and message.is_repeat]
    worker.stop()
    assert len(repeats) >= 2


def test_a_broken_engine_is_told_of() -> None:
    worker, _, failed = make_worker(FakeEngine())
    worker.start()
    request = make_request("p")
    poison = type(request)(request_id="p", prompt_token_ids=(POISON_ID,), params=request.params)
    for _ in range(3):
        worker.put(Start(request=poison))
        time.sleep(0.05)
    assert failed.wait(2)
    assert not worker.is_healthy()
