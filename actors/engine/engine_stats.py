"""What an engine says of itself, gathered from where it is counted."""

from actors.engine.blocks import BlockPool
from actors.engine.counters import Counters
from actors.engine.request import EngineStats
from actors.engine.scheduler import Scheduler


def engine_stats(counters: Counters, scheduler: Scheduler, pool: BlockPool) -> EngineStats:
    """Counters since the start, and how full queues and blocks are now."""
    return EngineStats(
        num_running=scheduler.num_running,
        num_waiting=scheduler.num_waiting,
        num_parked=scheduler.num_parked,
        num_queued_tokens=scheduler.num_queued_tokens,
        num_blocks=pool.num_blocks,
        num_free_blocks=pool.num_free,
        num_steps=counters.num_steps,
        num_prompt_tokens=counters.num_prompt_tokens,
        num_generated_tokens=counters.num_generated_tokens,
        num_computed_tokens=counters.num_computed_tokens,
        num_prefix_hit_tokens=scheduler.num_prefix_hit_tokens,
        num_preemptions=scheduler.num_preemptions,
        num_drafts=counters.num_drafts,
        num_draft_tokens=counters.num_draft_tokens,
        num_accepted_tokens=counters.num_accepted_tokens,
        num_accepted_tokens_per_pos=tuple(counters.accepted_per_position),
        step_time=counters.step_time,
        forward_time=counters.forward_time,
    )
