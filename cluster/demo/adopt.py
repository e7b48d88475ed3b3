"""Ship a candidate: ``python -m cluster.demo.adopt FILE --corpus ../shared/corpus`` makes it the embedded draft.

It writes the draft's folder, measures the pair as it will run, and writes both model cards anew.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from cluster.demo import TARGET_PATH
from cluster.demo.candidates import load_candidate
from cluster.demo.corpus import Book, read_books
from cluster.demo.evaluate import Report, evaluate
from cluster.demo.export import export_model
from cluster.demo.pretrain import encode_books
from cluster.demo.train import Recipe, passages_of, write_cards


def adopt(path: Path, books: list[Book], out: Path, recipe: Recipe) -> Report:
    """Make a candidate the draft of the pair in a folder.

    Args:
        path: The candidate's file.
        books: The text that the pair was trained on.
        out: Folder in which ``target`` is and ``draft`` is written.
        recipe: How the target was trained.
    """
    draft, candidate = load_candidate(path)
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(out / "target")
    export_model(draft, tokenizer, out / "draft")
    report = evaluate(out / "target", out / "draft", passages_of(books))
    done = replace(recipe, draft=candidate.shape, distillation=candidate.distillation)
    write_cards(out, done, len(encode_books(books, tokenizer)), report)
    return report


def main() -> None:
    """Ship a candidate from the command line; the report goes to standard output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("candidate", type=Path, help="draft-NAME/model.safetensors, as training wrote it")
    parser.add_argument("--corpus", type=Path, required=True, help="folder of novels, one .txt each")
    parser.add_argument("--out", type=Path, default=TARGET_PATH.parent, help="where target/ is (default: the package)")
    options = parser.parse_args()
    report = adopt(options.candidate, read_books(options.corpus), options.out, Recipe())
    sys.stdout.write(json.dumps(asdict(report), indent=2) + "\n")


if __name__ == "__main__":
    main()
