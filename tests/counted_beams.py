"""transformers' beam sampling with the engine's noise in place of torch's generator, so that both draw the same."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from actors.engine.noise import gumbel_noise


@contextmanager
def counted_noise(model: Any, seeds: Sequence[int], num_padded: Sequence[int]) -> Iterator[None]:
    """Let ``model.generate`` sample beams by counter-based noise.

    Args:
        model: a model of transformers.
        seeds: one a row of the batch.
        num_padded: padding in front of each row's prompt; positions count behind it.
    """
    kind = type(model)
    model.__class__ = type(kind.__name__, (_CountedNoise, kind), {"seeds": seeds, "num_padded": num_padded})
    try:
        yield
    finally:
        model.__class__ = kind


class _CountedNoise:
    """Overrides the one place where transformers draws."""

    seeds: Sequence[int]
    num_padded: Sequence[int]

    def _get_top_k_continuations(self, **given: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        accumulated = given["accumulated_log_probs"]  # (rows, beams * vocab)
        num_beams, cur_len = given["num_beams"], given["cur_len"]
        vocab_size = accumulated.shape[1] // num_beams
        beams = torch.arange(num_beams)
        noise = torch.stack(
            [
                gumbel_noise(
                    torch.full((num_beams,), seed), torch.full((num_beams,), cur_len - padded), vocab_size, beams
                ).flatten()
                for seed, padded in zip(self.seeds, self.num_padded, strict=True)
            ]
        )
        places = torch.topk(accumulated + noise, given["beams_to_keep"]).indices
        # Ranks in place of scores make transformers' own code choose these places in this order.
        ranks = torch.full_like(accumulated, -torch.inf)
        ranks.scatter_(1, places, -torch.arange(places.shape[1], dtype=ranks.dtype).expand_as(places))
        chosen = super()._get_top_k_continuations(  # type: ignore[misc]
            **{**given, "accumulated_log_probs": ranks, "do_sample": False}
        )
        return (accumulated.gather(1, places), *chosen[1:])
