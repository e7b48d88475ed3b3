"""When a pool grows and shrinks, and how its workers go."""

from typing import Annotated

import msgspec
from msgspec import Meta

from actors.engine.errors import ConfigError

Share = Annotated[float, Meta(gt=0.0, le=1.0)]
Seconds = Annotated[float, Meta(ge=0.0)]


class ScalingConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a pool should look like under load; it grows where a worker has more of it, and shrinks where it has less.

    Targets answer to the first three of these, drafts to the next two: more drafts where targets wait for them and they
    are busy, fewer where those that are left would not be busier than this.

    Attributes:
        target_queued_tokens: tokens that may wait for a forward, a target.
        target_kv_use: share of KV blocks that sequences hold.
        target_batch_use: sequences, waiting ones included, over ``max_num_seqs``.
        target_draft_wait: share of its working time that a target stands still for its drafts.
        target_draft_busy: share of the time that a draft computes.
        tolerance: how far the need may lie from a pool's size, as a share of it, before the size changes.
        window: seconds over which load is averaged.
        upscale_delay: seconds for which the need must last before a pool grows.
        downscale_delay: seconds for which the need must stay low before a pool shrinks.
        drain_timeout: seconds in which what a leaving worker runs may finish; what has not goes on elsewhere.
    """

    target_queued_tokens: Annotated[int, Meta(ge=1)] = 4096
    target_kv_use: Share = 0.8
    target_batch_use: Annotated[float, Meta(gt=0.0)] = 0.75
    target_draft_wait: Share = 0.3
    target_draft_busy: Share = 0.7
    tolerance: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.1
    window: Annotated[float, Meta(gt=0.0)] = 15.0
    upscale_delay: Seconds = 10.0
    downscale_delay: Seconds = 300.0
    drain_timeout: Seconds = 20.0

    def __post_init__(self) -> None:
        if self.downscale_delay < self.upscale_delay:
            raise ConfigError(
                f"downscale_delay: at least upscale_delay ({self.upscale_delay:g}), so that a pool does not swing, "
                f"but it is {self.downscale_delay:g}"
            )
