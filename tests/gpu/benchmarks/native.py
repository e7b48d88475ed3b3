"""Runs of transformers: eager generation, assisted generation, and continuous batching."""

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig

BATCH_BLOCK_SIZE = 256


def generate(model: Any, prompt: Sequence[int], num_new_tokens: int, **more: Any) -> list[int]:
    """New ids by greedy ``generate``; ``more`` are further arguments of it."""
    ids = torch.tensor([list(prompt)], device=model.device)
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        generation_config=GenerationConfig(max_new_tokens=num_new_tokens, do_sample=False, pad_token_id=0),
        **more,
    )
    found: list[int] = out[0, len(prompt) :].tolist()
    return found


def fix_draft_length(draft: Any, k: int) -> None:
    """Have assisted generation draft ``k`` ids in every round, however sure the draft is."""
    draft.generation_config.num_assistant_tokens = k
    draft.generation_config.num_assistant_tokens_schedule = "constant"
    draft.generation_config.assistant_confidence_threshold = 0.0


class Batches:
    """``generate_batch`` with its CUDA graphs and a manager that stays, sized for what it is given.

    Args:
        model: with modules of its own.
        prompts: that every run decodes.
        num_new_tokens: of each.
        use_graphs: whether it captures CUDA graphs. Off where there is no CUDA.
    """

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], num_new_tokens: int, *, use_graphs: bool) -> None:
        self._model = model
        self._prompts = [list(prompt) for prompt in prompts]
        self._num_new_tokens = num_new_tokens
        blocks = [-(-(len(prompt) + num_new_tokens) // BATCH_BLOCK_SIZE) + 1 for prompt in prompts]
        self._config = ContinuousBatchingConfig(
            block_size=BATCH_BLOCK_SIZE,
            num_blocks=sum(blocks),
            max_batch_tokens=4096,
            allow_block_sharing=False,  # the same prompts come again, and are to be computed again
            kv_padding_interval_size=4096,
            use_cuda_graph=use_graphs and model.device.type == "cuda",
        )
        # Without a flash kernel it masks; naming that way keeps it from looking for kernels on the hub.
        has_flash = any(importlib.util.find_spec(name) for name in ("flash_attn", "flash_attn_interface"))
        model.set_attn_implementation("sdpa" if has_flash and model.device.type == "cuda" else "paged|sdpa")

    def run(self) -> list[list[int]]:
        """New ids of each prompt. Raises RuntimeError where some are missing."""
        config = GenerationConfig(max_new_tokens=self._num_new_tokens, do_sample=False, pad_token_id=0, eos_token_id=-1)
        out = self._model.generate_batch(
            inputs=self._prompts,
            generation_config=config,
            continuous_batching_config=self._config,
            max_new_tokens=self._num_new_tokens,
            persistent_manager=True,
        )
        found = [list(result.generated_tokens) for result in out.values()]
        if [len(ids) for ids in found] != [self._num_new_tokens] * len(self._prompts):
            errors = {str(result.error) for result in out.values() if result.error is not None}
            raise RuntimeError(f"generate_batch made {sum(map(len, found))} tokens: {', '.join(errors) or 'no error'}")
        return found

    def close(self) -> None:
        """Give its memory back."""
        self._model.destroy_cached_continuous_batching_manager()
        self._model.set_attn_implementation("sdpa")


def eager_burst(model: Any, prompt: Sequence[int]) -> Callable[[int], None]:
    """A callable that runs k eager forwards of one id each behind ``prompt``, the choice of each fed to the next."""
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config)
    token = torch.tensor([list(prompt)], device=model.device)

    def run(k: int) -> None:
        nonlocal token
        with torch.inference_mode():
            for _ in range(k):
                out = model(input_ids=token, past_key_values=cache, use_cache=True, logits_to_keep=1)
                token = out.logits[:, -1].argmax(-1, keepdim=True)
            token.tolist()

    run(1)
    return run
