"""The input file as a list of what is to be done, in the order in which to do it."""

import hashlib
from collections import defaultdict
from pathlib import Path
from typing import Any

import msgspec

from cluster.batch.records import BatchError, Key, parse_line, salvage_id

MAX_NUM_NAMED = 5
BYTES_PER_TOKEN = 4
DECODE_WEIGHT = 4  # an emitted token costs about as much as this many tokens of a prompt, batch for batch
DEFAULT_NUM_TOKENS = 16


class Entry(msgspec.Struct, frozen=True):
    """One line of the input: where it lies in the file, whose it is, what it may cost, and what is wrong with it."""

    number: int
    offset: int
    length: int
    key: Key
    cost: int = 0
    problem: str = ""


class Plan(msgspec.Struct, frozen=True):
    """All lines that are not blank, and a digest of the whole file."""

    path: Path
    entries: tuple[Entry, ...]
    sha256: str

    def read(self, entries: list[Entry]) -> list[bytes]:
        """The lines of some entries."""
        with self.path.open("rb") as file:
            return [_read(file, entry) for entry in entries]


class _Size(msgspec.Struct, frozen=True):
    """Of a body, what says how much it may cost; what is no number is for the route to refuse."""

    max_tokens: Any = None
    max_completion_tokens: Any = None
    n: Any = None


def read_plan(path: Path) -> Plan:
    """Read and check the input. Raises BatchError where there is no such file, or an id stands on several lines."""
    if not path.is_file():
        raise BatchError(f"no input file at {path}")
    digest = hashlib.sha256()
    entries = []
    offset = 0
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            digest.update(raw)
            if raw.strip():
                entries.append(_entry(number, offset, raw))
            offset += len(raw)
    _refuse_duplicates(entries)
    return Plan(path, tuple(entries), digest.hexdigest())


def in_order(entries: list[Entry]) -> list[Entry]:
    """Costly ones first, so that the last ones to end are short and no engine runs half empty for long.

    By powers of two; within one of them the file's order stays, as neighbours often share the beginning of a prompt.
    """
    return sorted(entries, key=lambda entry: -entry.cost.bit_length())


def _entry(number: int, offset: int, raw: bytes) -> Entry:
    try:
        line = parse_line(raw)
    except BatchError as error:
        return Entry(number, offset, len(raw), salvage_id(raw) or number, problem=str(error))
    return Entry(number, offset, len(raw), line.custom_id, cost=_cost(line.body))


def _cost(body: msgspec.Raw) -> int:
    """In tokens of a prompt, roughly: what can be told without a tokenizer."""
    size = msgspec.json.decode(body, type=_Size)
    limit = size.max_tokens if isinstance(size.max_tokens, int) else size.max_completion_tokens
    num_tokens = limit if isinstance(limit, int) and limit > 0 else DEFAULT_NUM_TOKENS
    num_choices = size.n if isinstance(size.n, int) and size.n > 0 else 1
    return len(bytes(body)) // BYTES_PER_TOKEN + DECODE_WEIGHT * num_tokens * num_choices


def _refuse_duplicates(entries: list[Entry]) -> None:
    """Two lines with one id could never have exactly one result each."""
    numbers: defaultdict[Key, list[int]] = defaultdict(list)
    for entry in entries:
        numbers[entry.key].append(entry.number)
    twice = {key: lines for key, lines in numbers.items() if len(lines) > 1}
    if twice:
        named = "; ".join(
            f"{key!r} on lines {', '.join(map(str, lines[:MAX_NUM_NAMED]))}"
            for key, lines in list(twice.items())[:MAX_NUM_NAMED]
        )
        more = f" and {len(twice) - MAX_NUM_NAMED} more" if len(twice) > MAX_NUM_NAMED else ""
        raise BatchError(f"custom_id must be unique, but {named}{more}")


def _read(file: Any, entry: Entry) -> bytes:
    file.seek(entry.offset)
    raw: bytes = file.read(entry.length)
    return raw
