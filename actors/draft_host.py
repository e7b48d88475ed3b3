"""A draft that can also be asked directly: beside its own loop runs a target's, on the same engine."""

from collections.abc import Callable

from actors.config import RouterConfig
from actors.draft_loop import DraftLoop
from actors.engine.protocol import TokenEngine
from actors.engine_share import EngineShare
from actors.link import Link
from actors.messages import Abort, Greet, Message, Pair, SetDraftLength, Start
from actors.reporter import Reporter
from actors.status import WorkerInfo
from actors.target_loop import TargetLoop
from actors.translated_engine import TranslatedEngine
from actors.translation import Translation


class DraftHost:
    """Fulfils :class:`actors.worker.Loop` with two loops that are one worker: one inbox, one thread, one report.

    To requests that name a draft as their model it is a target that nobody runs ahead of. Their tokens and proposals
    for others come out of the same forwards.

    Args:
        translation: between the target's token ids and the draft's, where these are not the same. The engine is one
            that can be coupled then (:class:`actors.translated_engine.Noise`).
    """

    def __init__(
        self,
        engine: TokenEngine,
        link: Link,
        info: WorkerInfo,
        router_id: str,
        config: RouterConfig,
        clock: Callable[[], float],
        translation: Translation | None = None,
    ) -> None:
        drafts, requests = EngineShare.pair(engine)
        own: TokenEngine = drafts
        if translation is not None:
            own = TranslatedEngine(drafts, engine, translation)  # type: ignore[arg-type]  # see above
        size = None if translation is None else translation.num_target_ids
        self._draft = DraftLoop(own, link, info, router_id, config, clock, vocab_size=size)
        self._target = TargetLoop(requests, link, info, router_id, config, clock, reporter=self._draft.reporter)

    @property
    def reporter(self) -> Reporter:
        """Both loops'."""
        return self._draft.reporter

    @property
    def is_stopped(self) -> bool:
        """Whether the worker should end."""
        return self._draft.is_stopped

    def handle(self, message: Message) -> None:
        """Take in one message."""
        if isinstance(message, Start | Abort | Pair | Greet | SetDraftLength):
            self._target.handle(message)
        else:
            self._draft.handle(message)

    def run_once(self) -> None:
        """See the loops; a forward that one has run brings the other's tokens too."""
        self._draft.run_once()
        self._target.run_once()

    def has_work(self) -> bool:
        """Whether :meth:`run_once` should be called again at once."""
        return self._draft.has_work() or self._target.has_work()

    def next_deadline(self) -> float:
        """Return when :meth:`run_once` has to be called even though nothing has come in."""
        return min(self._draft.next_deadline(), self._target.next_deadline())
