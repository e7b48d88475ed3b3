"""Small tokenizers of the kinds that models have, trained on a text that does not change."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

PAGE = Path(__file__).parents[2] / "LICENSE"
ALPHABET = pre_tokenizers.ByteLevel.alphabet()
UNICODE = " “Où est l’été?” they said — 日本語のテキスト 🙂🙂, façades.\n\n\tEnd…  Two  spaces, 3.14 and 2024-11-28."


def pages() -> list[str]:
    """What all are trained on."""
    return [PAGE.read_text(encoding="utf-8")]


@cache
def byte_level(vocab_size: int = 600, *, has_digits_apart: bool = False) -> Tokenizer:
    """As GPT-2's, or with the splitting that newer ones have."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(
        Regex(r"(?i:'s|'t|'re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"),
        "isolated",
    )
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not has_digits_apart)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, level]) if has_digits_apart else level
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|end|>", "<|start|>"] if has_digits_apart else ["<pad>", "<s>", "</s>"]
    tokenizer.train_from_iterator(
        pages(), trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=special, initial_alphabet=ALPHABET)
    )
    return tokenizer


@cache
def sentencepiece(vocab_size: int = 700, *, is_unigram: bool = False) -> Tokenizer:
    """As Llama 2's and T5's: spaces as a letter, one before each text, unknown letters as bytes."""
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    special = ["<unk>", "<s>", "</s>", *byte_tokens]
    if is_unigram:
        plain = Tokenizer(models.Unigram())
        plain.pre_tokenizer = pre_tokenizers.Metaspace()
        plain.train_from_iterator(pages(), trainers.UnigramTrainer(vocab_size=vocab_size))
        vocab = [(token, score) for token, score in _model(plain)["vocab"] if token not in special]
        fallback = [(token, -20.0) for token in special]
        tokenizer = Tokenizer(models.Unigram([*fallback, *vocab], unk_id=0, byte_fallback=True))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    else:
        plain = Tokenizer(models.BPE(unk_token="<unk>"))
        plain.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        plain.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
        plain.train_from_iterator(pages(), trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=special))
        merges = [(left, right) for left, right in _model(plain)["merges"]]
        model = models.BPE(_model(plain)["vocab"], merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
        tokenizer = Tokenizer(model)
        tokenizer.normalizer = plain.normalizer
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special[:3]])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def _model(tokenizer: Tokenizer) -> dict[str, Any]:
    """The description of what was trained."""
    found: dict[str, Any] = json.loads(tokenizer.to_str())["model"]
    return found
