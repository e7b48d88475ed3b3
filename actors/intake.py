"""Which requests the router takes in: as many as it may hold, for models that are served here."""

from collections.abc import Callable

from actors.drafter import NO_DRAFT
from actors.messages import Refuse, Submit
from actors.registry import Registry

GRACE = 2.0  # seconds after the router's start in which a model that it does not know may still register


class Intake:
    """Says why a request is not taken. One that a router has accepted before is never turned away."""

    def __init__(self, registry: Registry, max_num_requests: int, clock: Callable[[], float]) -> None:
        self._registry = registry
        self._max_num_requests = max_num_requests
        self._clock = clock
        self._started_at = clock()

    def refusal(self, message: Submit, num_requests: int) -> Refuse | None:
        """Return why a new request is refused while ``num_requests`` are in flight, or None."""
        limit = self._max_num_requests
        if num_requests >= limit and not message.is_again:
            return Refuse(
                request_id=message.request.request_id,
                error=f"{limit} requests are in flight, as many as this cluster takes; try again later",
                limit=f"max_num_requests={limit}",
                is_overload=True,
            )
        return self.unknown_model(
            message.request.request_id, message.model, is_again=message.is_again
        ) or self._unknown_draft(message)

    def _unknown_draft(self, message: Submit) -> Refuse | None:
        wanted = message.request.params.assistant_model
        drafts = self._registry.drafts()
        if wanted in (None, NO_DRAFT, *drafts) or message.is_again or self._is_early():
            return None
        names = ", ".join([*drafts, NO_DRAFT])
        return Refuse(
            request_id=message.request.request_id,
            error=f"assistant_model: no draft {wanted!r} is here; there are: {names}",
            field="assistant_model",
            limit=names,
        )

    def _is_early(self) -> bool:
        return self._clock() - self._started_at <= GRACE

    def unknown_model(self, request_id: str, model: str, *, is_again: bool) -> Refuse | None:
        """Return the refusal of a request for a model that nobody serves or is about to, or None."""
        if is_again or self._is_early() or self._registry.knows_model(model):
            return None
        names = ", ".join(self._registry.models()) or "none"
        return Refuse(
            request_id=request_id,
            error=f"no model {model!r} is served here; served: {names}",
            field="model",
            limit=names,
        )
