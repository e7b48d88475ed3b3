"""Write the pair as folders that transformers loads: weights, configuration, tokenizer, model card."""

from __future__ import annotations

import copy
from pathlib import Path

from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from cluster.demo.evaluate import Report

_CARD = """---
language: en
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
---

# Slipstream demo: {role}

A Llama of {parameters:,} parameters that writes the English of nineteenth-century novels. It is the {role} of the pair
embedded in Slipstream, so that a cluster with assisted generation runs at once, on two CPU cores and without downloads.
It knows novels and nothing else: no facts, no instructions.

- **Data**: fourteen English novels in the public domain (Austen, Carroll, Dickens, Doyle, Shelley, Stevenson, Stoker,
  Wells; 7.5 MB, {tokens:,} tokens), the last 2.5 % of each held out. The texts are not part of the repository.
- **Licence**: Apache-2.0, as the rest of Slipstream; the novels themselves are in the public domain.
- **Training**: {training} Recipe: `python -m cluster.demo.train --corpus <folder> --out cluster/demo`.
- **Tokenizer**: byte-level BPE of 2048 entries, shared by the pair. The chat template writes a conversation as a novel
  would, each remark a paragraph in quotation marks.

Measured with NF4 weights (bitsandbytes, bfloat16 arithmetic) on {held_out:,} bytes of held-out prose:

| | |
|---|---|
| target's loss | {token_loss:.3f} nats a token, {byte_loss:.3f} nats a byte |
| draft's loss | {draft_loss:.3f} nats a token |
| acceptance, greedy, k = {k} | {greedy.per_token:.3f} a token checked, {greedy.per_drafted:.3f} of drafted |
| acceptance, temperature 1 | {sampled.per_token:.3f} a token checked, {sampled.per_drafted:.3f} of drafted |
| acceptance, temperature 0.8 | {sampled_08.per_token:.3f} a token checked, {sampled_08.per_drafted:.3f} of drafted |

Acceptance is that of shared Gumbel noise: target and draft choose from their own distributions with the same noise,
and a proposal is accepted when both choose the same token. `python -m cluster.demo.evaluate` measures it again.
"""


def export_model(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write weights in bfloat16, configurations and tokenizer to a folder."""
    shipped = copy.deepcopy(model).bfloat16()
    shipped.config.use_cache = True
    shipped.generation_config = GenerationConfig(
        do_sample=True,
        temperature=0.8,
        top_p=0.95,
        bos_token_id=model.config.bos_token_id,
        eos_token_id=model.config.eos_token_id,
        pad_token_id=model.config.pad_token_id,
    )
    shipped.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # written readable by its owner only
    tokenizer.save_pretrained(folder)


def write_card(folder: Path, role: str, training: str, tokens: int, report: Report) -> None:
    """Write the model card.

    Args:
        folder: Of the model.
        role: ``target`` or ``draft``.
        training: How it was trained, in a sentence or two.
        tokens: Number of training tokens.
        report: Measurements of the pair.
    """
    card = _CARD.format(
        role=role,
        parameters=report.target_parameters if role == "target" else report.draft_parameters,
        training=training,
        tokens=tokens,
        held_out=report.held_out_bytes,
        token_loss=report.target_loss_per_token,
        byte_loss=report.target_loss_per_byte,
        draft_loss=report.draft_loss_per_token,
        k=report.k,
        greedy=report.greedy,
        sampled=report.sampled,
        sampled_08=report.sampled_08,
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
