"""What an engine has done since it started."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Counters:
    """Running totals; see :class:`actors.engine.request.EngineStats` for their meaning."""

    num_steps: int = 0
    num_prompt_tokens: int = 0
    num_generated_tokens: int = 0
    num_computed_tokens: int = 0
    num_drafts: int = 0
    num_draft_tokens: int = 0
    num_accepted_tokens: int = 0
    accepted_per_position: list[int] = field(default_factory=list)
    step_time: float = 0.0
    forward_time: float = 0.0

    def count_step(self, num_tokens: int, forward_time: float, step_time: float) -> None:
        """Count one step that computed ``num_tokens``; times in seconds."""
        self.num_steps += 1
        self.num_computed_tokens += num_tokens
        self.forward_time += forward_time
        self.step_time += step_time

    def count_check(self, num_drafted: int, num_accepted: int) -> None:
        """Count one check of ``num_drafted`` drafted tokens, of which the first ``num_accepted`` were right."""
        if num_drafted == 0:
            return
        self.num_drafts += 1
        self.num_draft_tokens += num_drafted
        self.num_accepted_tokens += num_accepted
        self.accepted_per_position += [0] * (num_drafted - len(self.accepted_per_position))
        for position in range(num_accepted):
            self.accepted_per_position[position] += 1
