"""A target and drafts for it on disk: the same weights a little off, and the same weights under another tokenizer.

The tokenizers have whole words, so that any ids are a text which is split into the same words again: a draft with
another vocabulary can then be as right as one with the same, and how often it is shows what translation costs.
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from tests.actors.engine.tiny_models import SPECIAL_TOKENS, make_tiny

NUM_WORDS = 195
NUM_SPECIAL = len(SPECIAL_TOKENS)
CONTEXT = 2048


def words() -> list[str]:
    """All words, each with the space before it."""
    letters = "abcdefghijklmno"
    return [f"▁{first}{second}" for first in letters for second in letters][:NUM_WORDS]


def save_tokenizer(folder: str | Path, order: Sequence[str]) -> PreTrainedTokenizerFast:
    """Save a tokenizer whose ids are the special tokens and then words in an order."""
    vocabulary = [(token, -1.0) for token in (*SPECIAL_TOKENS, *order)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=SPECIAL_TOKENS.index("<unk>")))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    pad, bos, eos, unk = SPECIAL_TOKENS
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=pad, bos_token=bos, eos_token=eos, unk_token=unk, padding_side="left"
    )
    fast.save_pretrained(str(folder))
    return fast


def make_target(folder: Path) -> Path:
    """Save the target."""
    make_tiny("llama", folder, max_position_embeddings=CONTEXT)
    save_tokenizer(folder, words())
    return folder


def make_draft(folder: Path, target: Path, *, noise: float = 0.02, seed: int = 1) -> Path:
    """Save a draft: the target's weights, off by ``noise`` of their spread."""
    _save(folder, _noisy(target, noise, seed))
    save_tokenizer(folder, words())
    return folder


def make_foreign_draft(folder: Path, target: Path, *, noise: float = 0.0, seed: int = 1) -> Path:
    """Save a draft that has its words in another order, and ids for words that the target lacks among them."""
    model = _noisy(target, noise, seed)
    order = [*words(), *(f"▁{first}" for first in "xyz")]
    random.Random(seed).shuffle(order)
    known = {word: index for index, word in enumerate(words())}
    rows = [known.get(word) for word in order]
    for table in (model.get_input_embeddings(), model.get_output_embeddings()):
        old = table.weight.data
        new = torch.empty(NUM_SPECIAL + len(order), old.shape[1])
        new[:NUM_SPECIAL] = old[:NUM_SPECIAL]
        for index, row in enumerate(rows):
            # A word of its own is never likely.
            new[NUM_SPECIAL + index] = old[NUM_SPECIAL + row] if row is not None else 0.0
        table.weight = torch.nn.Parameter(new)
    model.config.vocab_size = NUM_SPECIAL + len(order)
    _save(folder, model)
    save_tokenizer(folder, order)
    return folder


def _noisy(target: Path, noise: float, seed: int) -> Any:
    model: Any = AutoModelForCausalLM.from_pretrained(target).eval()
    source = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        change = torch.randn(parameter.shape, generator=source)
        parameter.data.add_(change * parameter.data.std(correction=0) * noise)
    return model


def _save(folder: Path, model: Any) -> None:
    model.save_pretrained(str(folder))
