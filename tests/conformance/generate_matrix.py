"""The matrix that ``ClusterModel.generate`` is held to: modes x models x rows x how the weights lie.

``python -m tests.conformance.generate_matrix`` runs all of it and writes ``generate_matrix.md`` beside this file.
"""

import itertools
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import LogitsProcessor, LogitsProcessorList

from actors.config import WorkerConfig
from actors.engine.blueprint import decoder_layers
from actors.engine.config import EngineConfig, ModelConfig
from actors.engine.encoder_decoder import EncoderDecoderEngine
from actors.engine.engine import Engine
from actors.engine.loading import load_model
from cluster.config import ClusterConfig, PoolConfig
from cluster.generation import sequence_seed
from cluster.generation_client import ModelClient
from cluster.model import ClusterModel
from tests.actors.engine.tiny_models import ARCHITECTURES, ENCODER_DECODERS, VOCAB_SIZE, make_tiny
from tests.conformance.engine_client import EngineClient
from tests.counted_beams import counted_noise

TABLE = Path(__file__).with_suffix(".md")
NUM_NEW = 8
SEED = 23
TOLERANCE = 1e-4
ENGINE = EngineConfig(block_size=4, num_blocks=128)


class NoSevens(LogitsProcessor):
    """A caller's own processor: no id that ends in seven."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores[:, 7::10] = -torch.inf
        return scores


MODES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "greedy, penalties": {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "min_new_tokens": 4},
    "beam search": {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.7},
    "beam sampling": {"num_beams": 3, "do_sample": True, "top_k": 9},
    "beams, tensors": {
        **dict.fromkeys(("output_scores", "output_logits", "return_dict_in_generate"), True),
        "num_beams": 2,
    },
    "sampling, own processor": {"do_sample": True, "logits_processor": LogitsProcessorList([NoSevens()])},
    "guidance": {"guidance_scale": 1.4},
    "prompt lookup": {"prompt_lookup_num_tokens": 2},
    "tensors": {
        **dict.fromkeys(("output_scores", "output_logits", "output_attentions", "output_hidden_states"), True),
        "return_dict_in_generate": True,
    },
}
LAYOUTS = ("fp32", "nf4", "cpu and disk")
MODELS = tuple(name for name in ARCHITECTURES if name != "mamba") + tuple(ENCODER_DECODERS)
ROWS = (1, 4)


@dataclass(frozen=True)
class Cell:
    """One combination."""

    model: str
    layout: str
    mode: str
    rows: int

    def refusal(self) -> str:
        """Why transformers itself does not take this combination; empty where it does."""
        if self.mode == "prompt lookup" and self.rows > 1:
            return "one row at a time"
        if self.mode == "guidance" and self.model in ENCODER_DECODERS:
            return "decoders only"
        return ""


CELLS = tuple(Cell(*parts) for parts in itertools.product(MODELS, LAYOUTS, MODES, ROWS))


def prompts(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask of ragged prompts, padded on the left with id 0."""
    lengths = (9, 4, 7, 2)[:rows]
    ids = torch.zeros(rows, max(lengths), dtype=torch.long)
    for row, length in enumerate(lengths):
        ids[row, -length:] = torch.tensor([3 + (31 * row + 17 * n) % (VOCAB_SIZE - 3) for n in range(length)])
    return ids, (ids != 0).long()


@cache
def checkpoint(model: str) -> str:
    """A tiny model on disk, for the length of the process."""
    folder = tempfile.TemporaryDirectory(prefix=f"matrix-{model}-")
    _folders.append(folder)
    return make_tiny(model, folder.name)


_folders: list[tempfile.TemporaryDirectory[str]] = []


def config_of(model: str, layout: str) -> ModelConfig:
    """How a model is loaded in a layout."""
    fields: dict[str, Any] = {"model": checkpoint(model), "dtype": "float32"}
    if layout == "nf4":
        fields["quantization"] = "nf4"
    if layout == "cpu and disk":
        whole = load_model(ModelConfig(**fields), ENGINE).model
        part = getattr(whole, "decoder", getattr(getattr(whole, "model", None), "decoder", None))
        lists = [n for n, m in whole.named_modules() if isinstance(m, torch.nn.ModuleList)]
        name = next((n for n in lists if part is not None and "decoder" in n), None)
        layer = f"{name}.1" if name else decoder_layers(whole)[1]
        fields["device_map"] = {"": "cpu", layer: "disk"}
    return ModelConfig(**fields)


Pair = tuple[Any, ClusterModel]
"""A model in transformers' hands, and on a cluster."""


@contextmanager
def both(model: str, layout: str) -> Iterator[Pair]:
    """The weights in transformers' hands, and the same on a cluster of one engine."""
    config = config_of(model, layout)
    reference = load_model(config, ENGINE).model
    loaded = load_model(config, ENGINE)
    is_causal = model not in ENCODER_DECODERS
    engine = Engine(loaded, ENGINE) if is_causal else EncoderDecoderEngine(loaded, ENGINE)

    async def connect() -> ModelClient:
        return EngineClient(engine)

    pool = PoolConfig(worker=WorkerConfig(model=config))
    with ClusterModel(ClusterConfig(name="matrix", target=pool), connect) as cluster:
        yield reference, cluster


def differences(cell: Cell, reference: Any, cluster: ClusterModel) -> list[str]:
    """What a cell's two results do not have in common; empty where they agree."""
    ids, mask = prompts(cell.rows)
    arguments: dict[str, Any] = {"attention_mask": mask, "max_new_tokens": NUM_NEW, **MODES[cell.mode]}
    if cell.mode == "guidance":
        arguments["negative_prompt_ids"] = ids.flip(0)
        arguments["negative_prompt_attention_mask"] = mask.flip(0)
    more: dict[str, Any] = {}
    passed_over = {"past_key_values"}
    if cell.mode == "beam search":
        arguments["return_dict_in_generate"] = True
        more["output_scores"] = True  # without them transformers has no scores of sequences; the engine has these alone
        passed_over.add("scores")
    if arguments.get("output_attentions"):
        reference.set_attn_implementation("eager")
    torch.manual_seed(SEED)
    with _noise(cell, reference, mask):
        want = reference.generate(ids, **arguments, **more)
    found: Any = cluster.generate(ids, seed=SEED, **arguments, **(more if cell.model in ENCODER_DECODERS else {}))
    if isinstance(want, torch.Tensor):
        return [] if torch.equal(want, found) else [f"ids: {want.tolist()} but {found.tolist()}"]
    names = [name for name in want if name not in passed_over]
    faults = [] if [name for name in found if name not in passed_over] == names else [f"fields: {list(found)}"]
    return faults + [name for name in names if not alike(want[name], found[name])]


def _noise(cell: Cell, reference: Any, mask: torch.Tensor) -> AbstractContextManager[None]:
    """The engine's noise in transformers' hands, where it is the engine that samples beams."""
    if cell.mode != "beam sampling" or cell.model in ENCODER_DECODERS:
        return nullcontext()
    seeds = [sequence_seed(SEED, row) for row in range(cell.rows)]
    return counted_noise(reference, seeds, (mask == 0).sum(dim=1).tolist())


def alike(want: Any, got: Any) -> bool:
    """Whether two outputs have the same structure and, to the tolerance, the same numbers."""
    if isinstance(want, torch.Tensor):
        if want.shape != got.shape or want.dtype != got.dtype:
            return False
        return bool(torch.allclose(want, got, atol=TOLERANCE, rtol=TOLERANCE, equal_nan=True))
    if isinstance(want, tuple | list):
        return len(want) == len(got) and all(alike(a, b) for a, b in zip(want, got, strict=True))
    return bool(want == got)


def table(results: dict[Cell, list[str]]) -> str:
    """The results as a page."""
    lines = [
        "# `ClusterModel.generate` against `model.generate`",
        "",
        "Same weights, same calls, tiny random models; ids equal to the token, scores and tensors within 1e-4. Beam",
        "sampling is that of transformers under the engine's noise.",
        "Written by `python -m tests.conformance.generate_matrix`. A cell reads: agreeing of compared, over 1 row and",
        "4 ragged rows; a dash is a combination that transformers refuses.",
        "",
        "| model | layout | " + " | ".join(MODES) + " |",
        "|---" * (2 + len(MODES)) + "|",
    ]
    for model, layout in itertools.product(MODELS, LAYOUTS):
        marks = []
        for mode in MODES:
            done = [results[cell] for cell in results if (cell.model, cell.layout, cell.mode) == (model, layout, mode)]
            marks.append(f"{sum(not faults for faults in done)} of {len(done)}" if done else "–")
        lines.append(f"| {model} | {layout} | " + " | ".join(marks) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run every cell, write the table, and say what differs."""
    warnings.simplefilter("ignore")
    results: dict[Cell, list[str]] = {}
    with tqdm(total=len(CELLS), desc="cells") as progress:
        for model, layout in itertools.product(MODELS, LAYOUTS):
            with both(model, layout) as (reference, cluster):
                for cell in (cell for cell in CELLS if (cell.model, cell.layout) == (model, layout)):
                    if not cell.refusal():
                        results[cell] = differences(cell, reference, cluster)
                        if results[cell]:
                            progress.write(f"{cell}: {results[cell]}"[:400])
                    progress.update()
    TABLE.write_text(table(results), encoding="utf-8")
    return sum(map(bool, results.values()))


if __name__ == "__main__":
    sys.exit(main())
