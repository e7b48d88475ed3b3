"""The thread that owns an engine. Everyone else only puts messages into its inbox."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from actors.inbox import Inbox
from actors.messages import Drain, Message, Stop
from actors.native_job import CancelJob, NativeJob
from actors.reporter import Reporter

logger = logging.getLogger(__name__)

Work = Message | NativeJob | CancelJob

MAX_STEP_TIME = 120.0  # seconds that one forward may take before the worker counts as hung


class Loop(Protocol):
    """What :class:`TargetLoop` and :class:`DraftLoop` have in common."""

    @property
    def reporter(self) -> Reporter:
        """Tells the router how the worker is."""

    @property
    def is_stopped(self) -> bool:
        """Whether the worker should end."""

    def handle(self, message: Any) -> None:
        """Take in one message."""

    def run_once(self) -> None:
        """Run one forward if there is work, and whatever is due."""

    def has_work(self) -> bool:
        """Whether :meth:`run_once` should be called again at once."""

    def next_deadline(self) -> float:
        """Return when :meth:`run_once` has to be called even though nothing has come in."""


class Worker:
    """Drives a loop on its own thread: drain the inbox, run once, sleep on the inbox while nothing is ready.

    A second thread repeats the last report while a forward takes long, up to :data:`MAX_STEP_TIME`. ``on_error`` is
    called when the loop ends with an error. ``inbox`` is the worker's own, unless wires bring messages into it as well.
    """

    def __init__(
        self, loop: Loop, interval: float, on_error: Callable[[], None], inbox: Inbox[Work] | None = None
    ) -> None:
        self._loop = loop
        self._interval = interval
        self._on_error = on_error
        self._inbox: Inbox[Work] = inbox or Inbox()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._beat = threading.Thread(target=self._repeat_reports, name="beat", daemon=True)
        self._turn_at = time.monotonic()
        self.ended = threading.Event()

    def start(self) -> None:
        """Start the threads."""
        self._thread.start()
        self._beat.start()

    def put(self, message: Work) -> None:
        """Hand the loop a message. From any thread; never blocks."""
        self._inbox.put(message)

    def stop(self, timeout: float = 5.0) -> None:
        """End the loop after its current forward, waiting for at most ``timeout`` seconds."""
        self._inbox.put(Stop())
        self.ended.wait(timeout)

    def drain(self, timeout: float) -> None:
        """Take nothing new and end the loop once it holds nothing, or after ``timeout`` seconds."""
        self._inbox.put(Drain())
        if not self.ended.wait(timeout):
            self.stop()

    def is_healthy(self) -> bool:
        """Whether the engine thread lives and its current forward is not overdue."""
        return self._thread.is_alive() and time.monotonic() - self._turn_at < MAX_STEP_TIME

    def _run(self) -> None:
        try:
            self._drain()
            while not self._loop.is_stopped:  # once it has left, a worker must not report again
                self._turn_at = time.monotonic()
                self._loop.run_once()
                self._drain()
        except Exception:
            logger.exception("the engine thread has ended with an error")
            self._on_error()
        finally:
            self.ended.set()
            self._inbox.close()

    def _drain(self) -> None:
        """Handle all that is queued; wait for it where nothing else is to be done."""
        timeout = 0.0 if self._loop.has_work() else self._loop.next_deadline() - time.monotonic()
        messages = self._inbox.take(max(0.0, timeout))
        while messages:
            for message in messages:
                self._handle(message)
            messages = self._inbox.take()

    def _handle(self, message: Work) -> None:
        try:
            self._loop.handle(message)
        except Exception:
            logger.exception("a %s could not be handled", type(message).__name__)

    def _repeat_reports(self) -> None:
        while not self.ended.wait(self._interval):
            overdue = time.monotonic() - self._loop.reporter.next_time
            if overdue > self._interval and self.is_healthy():
                self._loop.reporter.repeat()
