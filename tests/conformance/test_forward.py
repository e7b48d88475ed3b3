"""A ClusterModel is called as the model itself is: same logits, same fields, in pieces where they are many."""

from typing import Any

import pytest
import torch
from transformers import DynamicCache

from actors.engine.errors import TokenIdError
from actors.engine.native_forward import forward
from tests.actors.engine.tiny_models import VOCAB_SIZE
from tests.conformance.generate_matrix import MODELS, Pair, alike, both, prompts


@torch.no_grad()
def locally(model: Any, *args: Any, **arguments: Any) -> Any:
    return model(*args, **arguments)


def test_same_fields(decoder: Pair) -> None:
    reference, ours = decoder
    ids, mask = prompts(4)
    arguments: dict[str, Any] = {"attention_mask": mask, "labels": ids, "output_hidden_states": True}
    want, found = locally(reference, ids, **arguments), ours(ids, **arguments)
    assert list(found) == list(want)
    for name in ("loss", "logits", "hidden_states"):
        assert alike(want[name], found[name])
    assert found.logits.dtype == torch.float32
    assert not found.logits.requires_grad


def test_attentions(decoder: Pair) -> None:
    reference, ours = decoder
    ids, _ = prompts(1)
    reference.set_attn_implementation("eager")
    try:
        want = locally(reference, ids, output_attentions=True)
    finally:
        reference.set_attn_implementation("sdpa")
    assert alike(want.attentions, ours(ids, output_attentions=True).attentions)


def test_an_encoder_decoder() -> None:
    with both("t5", "fp32") as (reference, ours):
        ids, mask = prompts(4)
        labels = ids.flip(1)
        want = locally(reference, input_ids=ids, attention_mask=mask, labels=labels)
        found = ours(input_ids=ids, attention_mask=mask, labels=labels)
    assert alike(want.logits, found.logits)
    assert alike(want.loss, found.loss)


def test_a_cache_that_is_given_fills(decoder: Pair) -> None:
    """A loop that a user wrote: forward by forward, over a cache of the user's own."""
    reference, ours = decoder
    ids, _ = prompts(1)
    written = []
    for model in (reference, ours):
        cache, step, tokens = DynamicCache(config=model.config), ids, []
        for _ in range(5):
            output = locally(model, step, past_key_values=cache, use_cache=True)
            step = output.logits[:, -1:].argmax(-1)
            tokens.append(int(step))
        assert cache.get_seq_length() == ids.shape[1] + 4
        written.append(tokens)
    assert written[0] == written[1]


@pytest.mark.parametrize("model", MODELS)
def test_pieces_make_the_whole(model: str) -> None:
    """Rows of left-padded prompts, wider than any window, a few positions at a time."""
    if model in ("t5", "bart"):
        pytest.skip("encoder-decoders are computed whole")
    ids, mask = prompts(4)
    ids, mask = torch.cat([ids, ids.clamp(min=3).repeat(1, 3)], 1), torch.cat([mask, mask.new_ones(4, 27)], 1)
    counted: list[int] = []
    with both(model, "fp32") as (reference, _):
        want = locally(reference, ids, attention_mask=mask)
        handle = reference.register_forward_hook(lambda module, args, output: counted.append(output.logits.numel()))
        arguments = {"input_ids": ids, "attention_mask": mask}
        for kept in (True, False):
            found = locally(forward, reference, {**arguments, "use_cache": kept}, max_num_values=VOCAB_SIZE * 40)
            # Logits reach 18; experts take rows together, and how many there are decides in what order they are summed.
            assert torch.allclose(found.logits[mask.bool()], want.logits[mask.bool()], atol=1e-3, rtol=1e-4)
            assert (found.past_key_values is not None) == kept
        handle.remove()
    assert len(counted) > 6
    assert max(counted) <= VOCAB_SIZE * 40


def test_ids_beyond_the_vocabulary_reach_no_device(decoder: Pair) -> None:
    with pytest.raises(TokenIdError, match="input_ids"):
        decoder[1](torch.tensor([[VOCAB_SIZE]]))
