"""What is asked of a model that is measured: prompts from a file, or those that come with the package."""

import json
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from actors.engine.config import ModelConfig
from actors.engine.errors import ConfigError
from actors.engine.request import Request
from cluster.defaults import generation_defaults
from cluster.generation import resolve_params, sequence_seed

HELD_OUT = Path(__file__).parent.parent / "demo" / "heldout.txt"
SEPARATOR = "\n***\n"
NUM_PASSAGES = 6
MAX_NUM_WORDS = 48  # of a passage that is gone on from
GENERIC = (
    "The three things that matter most when you write a letter are",
    "Question: Why is the sky blue?\nAnswer:",
    "def fibonacci(n):\n    ",
    "Once upon a time there was an old king who had",
)
FIELDS = ("prompt", "text")


def built_in_prompts() -> list[str]:
    """Passages of prose that the embedded pair was not trained on, and a few prompts of other kinds."""
    passages = [passage.strip() for passage in HELD_OUT.read_text(encoding="utf-8").split(SEPARATOR)]
    return [" ".join(passage.split()[:MAX_NUM_WORDS]) for passage in passages[:NUM_PASSAGES]] + list(GENERIC)


def read_prompts(file: Path) -> list[str]:
    """Read prompts: a line each, or JSON lines with a field ``prompt`` (or ``text``), or of strings.

    Raises ConfigError naming the line.
    """
    if not file.is_file():
        raise ConfigError(f"prompts: no file at {file}")
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ConfigError(f"prompts: {file} is not UTF-8 text: {error}") from None
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if file.suffix in (".jsonl", ".json"):
        prompts = [_from_json(file, number, line) for number, line in numbered]
    else:
        prompts = [line for _, line in numbered]
    if not prompts:
        raise ConfigError(f"prompts: {file} has none")
    return prompts


def _from_json(file: Path, number: int, line: str) -> str:
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise ConfigError(f"prompts: {file}, line {number} is not JSON: {error}") from None
    found = entry if isinstance(entry, str) else None
    if isinstance(entry, dict):
        found = next((entry[name] for name in FIELDS if isinstance(entry.get(name), str)), None)
    if not found:
        raise ConfigError(f"prompts: {file}, line {number}: a text, or an object with the text in 'prompt', is needed")
    return found


def make_requests(
    model: ModelConfig,
    prompts: Sequence[Sequence[int]],
    fields: Mapping[str, Any],
    *,
    seed: int = 0,
    num_draft_tokens: int | None = None,
) -> list[Request]:
    """A fresh request for each prompt, the i-th with the i-th seed of ``seed``.

    Args:
        model: whose generation defaults lie under ``fields``.
        prompts: token ids.
        fields: generation parameters.
        seed: of all of them.
        num_draft_tokens: the draft length; None leaves it to the cluster, 0 is plain decoding.

    Raises:
        RequestError: a parameter that is refused.
    """
    defaults = generation_defaults(model)
    call = uuid.uuid4().hex
    requests = []
    for index, prompt in enumerate(prompts):
        own = {"seed": sequence_seed(seed, index), "num_assistant_tokens": num_draft_tokens, **fields}
        given = {name: value for name, value in own.items() if value is not None}
        params = resolve_params(defaults, given, num_prompt_tokens=len(prompt))
        if num_draft_tokens is None:  # a default of the model's would pin it
            params = msgspec.structs.replace(params, num_assistant_tokens=None)
        requests.append(Request(request_id=f"bench-{call}-{index}", prompt_token_ids=tuple(prompt), params=params))
    return requests
