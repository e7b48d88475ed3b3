"""The embedded pair as shipped: files, tokenizer, chat template, and the acceptance it promises."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from cluster.demo import DRAFT_PATH, HELD_OUT_PATH, TARGET_PATH, resolve
from cluster.demo.acceptance import Acceptance, load, measure_acceptance
from cluster.demo.evaluate import prompts_of, read_passages
from cluster.demo.pretrain import stream_loss

MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(TARGET_PATH)
    return loaded


@pytest.fixture(scope="module")
def pair() -> tuple[PreTrainedModel, PreTrainedModel]:
    return load(TARGET_PATH), load(DRAFT_PATH)


def test_importing_the_package_is_light() -> None:
    code = "import sys, cluster.demo; sys.exit(any(name in sys.modules for name in ('torch', 'transformers')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_names_resolve() -> None:
    assert resolve("demo") == str(TARGET_PATH)
    assert resolve("demo-draft") == str(DRAFT_PATH)
    assert resolve("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"


@pytest.mark.parametrize("path", [TARGET_PATH, DRAFT_PATH])
def test_weights_are_safetensors_and_nothing_else(path: Path) -> None:
    assert {file.suffix for file in path.iterdir()} <= {".json", ".safetensors", ".md", ".jinja"}
    with safe_open(path / "model.safetensors", framework="pt") as weights:
        names = set(weights.keys())
    assert "model.embed_tokens.weight" in names and "lm_head.weight" not in names
    assert (path / "README.md").read_text().startswith("---\n")


def test_sizes() -> None:
    target, draft = ((path / "model.safetensors").stat().st_size for path in (TARGET_PATH, DRAFT_PATH))
    assert target + draft < 40 * MEGABYTE
    assert draft < target / 8
    assert HELD_OUT_PATH.stat().st_size < 20_000


def test_generation_defaults() -> None:
    defaults = json.loads((TARGET_PATH / "generation_config.json").read_text())
    assert defaults["do_sample"] is True and defaults["temperature"] == 0.8 and defaults["top_p"] == 0.95
    assert defaults["eos_token_id"] == 0


def test_the_pair_has_one_vocabulary() -> None:
    one, other = ((path / "tokenizer.json").read_bytes() for path in (TARGET_PATH, DRAFT_PATH))
    assert one == other


@pytest.mark.parametrize(
    "text",
    [
        "It was a dark night; 1984, he said.",
        "naïve café — “quoted” 你好 🚢\u200d\u2060 \x00\x1f",
        "  two  spaces\n\n\nand\ttabs  ",
        "".join(map(chr, range(1, 0x250))),
    ],
)
def test_any_text_survives_the_tokenizer(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_every_byte_is_a_token(tokenizer: PreTrainedTokenizerBase) -> None:
    assert sum(len(token) == 1 for token in tokenizer.get_vocab()) == 256
    assert len(tokenizer) == 2048


def test_a_conversation_reads_like_a_novel(tokenizer: PreTrainedTokenizerBase) -> None:
    chat = [{"role": "system", "content": "It was late."}, {"role": "user", "content": "Who is there?"}]
    prompt = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert prompt == 'It was late.\n\n"Who is there?"\n\n"'
    chat += [{"role": "assistant", "content": 'It is I," said he.'}, {"role": "user", "content": "Come in."}]
    longer = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert longer == prompt + 'It is I," said he.\n\n"Come in."\n\n"'


def test_the_target_knows_english(
    tokenizer: PreTrainedTokenizerBase, pair: tuple[PreTrainedModel, PreTrainedModel]
) -> None:
    stream = torch.tensor([token for text in read_passages()[:6] for token in (0, *tokenizer(text).input_ids)])
    assert stream_loss(pair[0], stream) < 4.0


@pytest.mark.parametrize(("temperature", "bar"), [(0.0, 0.70), (1.0, 0.55)])
def test_acceptance(
    tokenizer: PreTrainedTokenizerBase, pair: tuple[PreTrainedModel, PreTrainedModel], temperature: float, bar: float
) -> None:
    prompts = prompts_of(read_passages(), tokenizer)
    rates: Acceptance = measure_acceptance(*pair, prompts, k=4, num_tokens=64, temperature=temperature)
    assert rates.num_checked > 500
    assert rates.per_token >= bar  # standard error of this sample: about 0.02
