"""What a replica of the door knows of one model of the cluster behind it."""

import msgspec

from actors.status import ClusterStats, WorkerInfo
from serve_app.cluster_account import ClusterAccount
from serve_app.errors import not_ready

FRESH_SECONDS = 1.0
STALE_SECONDS = 10.0  # up to which an account is used while a newer one is on its way


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """The served model as a request must know it: what holds on every target that lives."""

    name: str
    max_model_len: int
    vocab_size: int
    max_num_prompt_tokens: int
    is_encoder_decoder: bool = False


class Capacity(msgspec.Struct, frozen=True, kw_only=True):
    """Sequences that a cluster takes: in all, and a target that runs. None where there is no bound."""

    total: int | None = None
    per_target: int | None = None


class ClusterView:
    """What an account says of one served model. Used from one event loop.

    Args:
        name: the served model: a pool of targets, or a draft.
        capacity: what the cluster takes.
        max_num_prompt_tokens: the server's own bound on a prompt; None leaves it to the context.
    """

    def __init__(
        self, account: ClusterAccount, name: str, capacity: Capacity, max_num_prompt_tokens: int | None
    ) -> None:
        self._account = account
        self._name = name
        self._capacity = capacity
        self._max_num_prompt_tokens = max_num_prompt_tokens

    def of(self, name: str) -> "ClusterView":
        """A view of another model of the same cluster."""
        return ClusterView(self._account, name, self._capacity, self._max_num_prompt_tokens)

    async def stats(self, max_age: float = 0.0) -> ClusterStats:
        """The cluster's state, at most ``max_age`` seconds old. Raises ApiError 503 where no router answers."""
        return await self._account.stats(max_age)

    async def card(self, max_age: float = STALE_SECONDS) -> ModelCard:
        """The served model; an account that is not fresh is renewed meanwhile. Raises ApiError 503: no target runs."""
        card = self._card(await self.stats(max_age))
        if self._account.age >= FRESH_SECONDS:
            self._account.refresh()
        card = card or self._card(await self.stats())
        if card is None:
            raise not_ready()
        return card

    def room(self) -> int | None:
        """Sequences that this door may have open, what comes through others taken off; None where nothing bounds it.

        Who is refused for want of room makes the account be renewed, so that nobody is refused for an old one.
        """
        if self._account.latest is None:
            return None
        if self._account.age >= FRESH_SECONDS:
            self._account.refresh()
        num_targets = len(self._targets(self._account.latest))
        bounds = [self._capacity.total] if self._capacity.total is not None else []
        if num_targets and self._capacity.per_target is not None:
            bounds.append(num_targets * self._capacity.per_target)
        return max(0, min(bounds) - self._account.num_others) if bounds else None

    def _targets(self, stats: ClusterStats) -> list[WorkerInfo]:
        """The workers that live and take requests for this model."""
        infos = [worker.info for worker in stats.workers if worker.is_alive]
        return [info for info in infos if info.served_name == self._name]

    def _card(self, stats: ClusterStats) -> ModelCard | None:
        targets = self._targets(stats)
        if not targets:
            return None
        max_model_len = min(_longest(info) for info in targets)
        room = max_model_len - 1  # one for the answer
        limit = self._max_num_prompt_tokens
        return ModelCard(
            name=self._name,
            max_model_len=max_model_len,
            vocab_size=min(info.vocab_size for info in targets),
            max_num_prompt_tokens=room if limit is None else min(room, limit),
            is_encoder_decoder=any(info.is_encoder_decoder for info in targets),
        )


def _longest(info: WorkerInfo) -> int:
    """The longest sequence of a target: its context, or its KV cache where that holds less."""
    capacity = info.num_blocks * info.block_size
    return min(info.max_model_len, capacity) if capacity else info.max_model_len
