"""What the loops of targets and drafts have in common."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable

from actors.config import RouterConfig
from actors.engine.protocol import TokenEngine
from actors.link import Link
from actors.messages import Message
from actors.reporter import Reporter
from actors.status import WorkerInfo
from actors.step_times import StepTimes

logger = logging.getLogger(__name__)

MAX_CRASHES = 3  # forwards that may fail one after the other before the process is given up


class ModelLoop(ABC):
    """One engine, its way to the router, and its end. Every method is called by the thread that owns the engine.

    Attributes:
        reporter: tells the router that the worker lives.
        is_stopped: whether the loop has ended.
    """

    def __init__(
        self,
        engine: TokenEngine,
        link: Link,
        info: WorkerInfo,
        router_id: str,
        config: RouterConfig,
        clock: Callable[[], float],
    ) -> None:
        self._engine = engine
        self._link = link
        self._info = info
        self._worker_id = info.worker_id
        self._router_id = router_id
        self._config = config
        self._clock = clock
        self._num_crashes = 0
        self._step_times = StepTimes()
        self.reporter = Reporter(link, router_id, info, config.report_interval)
        self.is_stopped = False

    @abstractmethod
    def handle(self, message: Message) -> None:
        """Take in one message."""

    @abstractmethod
    def run_once(self) -> None:
        """Run one forward if there is work, and whatever is due."""

    @abstractmethod
    def has_work(self) -> bool:
        """Whether :meth:`run_once` should be called again at once."""

    @abstractmethod
    def next_deadline(self) -> float:
        """Return when :meth:`run_once` has to be called even though nothing has come in."""

    def stop(self) -> None:
        """End the loop and tell the router so."""
        self.is_stopped = True
        self.reporter.leave()

    def _count_crash(self, error: Exception) -> None:
        """Note a forward that failed as a whole. Raises its error after :data:`MAX_CRASHES` in a row."""
        self._num_crashes += 1
        logger.exception("%s: a forward failed (%d in a row)", self._worker_id, self._num_crashes)
        if self._num_crashes >= MAX_CRASHES:
            raise error
