"""Lets transformers' own ``generate`` take turns with a target's engine, on the engine's thread."""

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from actors.native_job import CancelJob, NativeJob
from actors.reporter import Reporter

if TYPE_CHECKING:
    from actors.engine.native_generation import NativeModel, NativeRun
    from actors.messages import Message
    from actors.worker import Loop


class NativeLoop:
    """A loop around a target's: runs its steps, and between them forwards of native runs, each in its turn.

    While the engine has work, native runs get as much time as it does and no more: a wide beam search, one forward of
    which takes as long as many steps, then slows streams to a half and not to a tenth.

    Args:
        loop: the target's own.
        model: the same weights, as transformers knows them.
        clock: seconds.
    """

    def __init__(self, loop: "Loop", model: "NativeModel", clock: Callable[[], float] = time.monotonic) -> None:
        self._loop = loop
        self._model = model
        self._clock = clock
        self._runs: deque[tuple[NativeJob, NativeRun]] = deque()
        self._debt = 0.0  # seconds that native runs are ahead of the engine

    @property
    def reporter(self) -> Reporter:
        """The target's."""
        return self._loop.reporter

    @property
    def is_stopped(self) -> bool:
        """Whether the worker should end."""
        return self._loop.is_stopped

    @property
    def num_runs(self) -> int:
        """Native runs under way."""
        return len(self._runs)

    def handle(self, message: "Message | NativeJob | CancelJob") -> None:
        """Take in one message, a new native run, or the end of one."""
        if isinstance(message, NativeJob):
            self._runs.append((message, self._model.start(message.call, message)))
        elif isinstance(message, CancelJob):
            for job, run in self._runs:
                if job.job_id == message.job_id:
                    run.is_cancelled = True
        else:
            self._loop.handle(message)

    def run_once(self) -> None:
        """One step of the engine, if it has work, and one forward of a native run, if it is due."""
        is_shared = self._loop.has_work()
        started = self._clock()
        self._loop.run_once()
        stepped = self._clock()
        self._debt = max(0.0, self._debt - (stepped - started)) if is_shared else 0.0
        if not self._runs or self._debt > 0.0:
            return
        job, run = self._runs.popleft()
        if self._model.step(run):
            self._runs.append((job, run))
        self._debt = self._clock() - stepped if is_shared else 0.0

    def has_work(self) -> bool:
        """Whether :meth:`run_once` should be called again at once."""
        return bool(self._runs) or self._loop.has_work()

    def next_deadline(self) -> float:
        """See the target's loop."""
        return self._loop.next_deadline()
