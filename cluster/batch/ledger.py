"""The file of results as the job's journal: what stands there is done, whatever happens to everything else.

Results are appended in chunks, each on the disk before the next. A job that dies between two of them leaves a line
without an end at worst, which the next one cuts off. Beside the file lies ``<output>.job``, which says what the results
belong to, so that those of different inputs or seeds never mix.
"""

import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import msgspec

from cluster.batch.records import BatchError, Key, Outcome

logger = logging.getLogger(__name__)

LOCK_TIMEOUT = 20.0  # seconds that the driver of a job which was just killed may take to be gone
LOCK_POLL = 0.2


class JobHeader(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the results depend on. ``model`` is known once a cluster was opened."""

    input_sha256: str
    seed: int
    model: str | None = None


class Ledger:
    """Appends results, each key once, and knows which are there. One job at a time; a second waits, then is refused.

    Args:
        path: the file of results; its folder is made.
        header: what the results will depend on.
        lock_timeout: seconds to wait for another job to end.

    Attributes:
        done: keys with a result.
        num_failed: results without an answer.
    """

    def __init__(self, path: Path, header: JobHeader, *, lock_timeout: float = LOCK_TIMEOUT) -> None:
        self.path = path
        self.done: set[Key] = set()
        self.num_failed = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(Path(f"{path}.lock"), lock_timeout)
        try:
            self._header = _check_header(path, header)
            self._recover()
            self._file = path.open("ab")
            _sync_folder(path.parent)
        except BaseException:
            self._lock.close()
            raise

    def bind(self, model: str) -> None:
        """Say which model the results to come are from. Raises BatchError where earlier ones are from another."""
        if self._header.model is None:
            self._header = msgspec.structs.replace(self._header, model=model)
            _write_header(self.path, self._header)
        elif self._header.model != model:
            raise BatchError(f"{self.path} holds results of {self._header.model}, not of {model}: name another output")

    def append(self, results: Iterable[tuple[Key, bytes]]) -> int:
        """Put results on the disk and return how many were new; those whose key has one already are dropped."""
        fresh = dict(results)
        fresh = {key: line for key, line in fresh.items() if key not in self.done}
        if not fresh:
            return 0
        self._file.write(b"".join(line + b"\n" for line in fresh.values()))
        self._file.flush()
        os.fsync(self._file.fileno())
        for line in fresh.values():
            self._enter(msgspec.json.decode(line, type=Outcome))
        return len(fresh)

    def close(self) -> None:
        """Close the file and let the next job in."""
        self._file.close()
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _enter(self, outcome: Outcome) -> None:
        self.done.add(outcome.key)
        self.num_failed += outcome.is_failed

    def _recover(self) -> None:
        """Read back what is done. Where the file has anything but whole results, write it anew with only those."""
        if not self.path.exists():
            return
        num_bytes = sum(len(line) for line, outcome in self._whole_results() if self._is_new(outcome))
        if num_bytes == self.path.stat().st_size:
            return
        logger.warning("%s: the end of a job that was cut off is taken away", self.path)
        self.done.clear()
        self.num_failed = 0
        repaired = Path(f"{self.path}.repaired")
        with repaired.open("wb") as file:
            file.writelines(line for line, outcome in self._whole_results() if self._is_new(outcome))
            file.flush()
            os.fsync(file.fileno())
        repaired.replace(self.path)

    def _is_new(self, outcome: Outcome) -> bool:
        if outcome.key in self.done:
            return False
        self._enter(outcome)
        return True

    def _whole_results(self) -> Iterator[tuple[bytes, Outcome]]:
        with self.path.open("rb") as file:
            for line in file:
                with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, ValueError):
                    outcome = msgspec.json.decode(line, type=Outcome)
                    if line.endswith(b"\n") and outcome.key is not None:
                        yield line, outcome


def _lock(path: Path, timeout: float) -> BinaryIO:
    """Take the file's lock, which the system gives back when its holder dies. Raises BatchError after a while."""
    file = path.open("ab")
    deadline = time.monotonic() + timeout
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except OSError:
            if time.monotonic() > deadline:
                file.close()
                raise BatchError(f"another job is writing there: {path} is locked") from None
            time.sleep(LOCK_POLL)


def _check_header(output: Path, header: JobHeader) -> JobHeader:
    """Write down what the results belong to, or make sure that it is the same. Raises BatchError where it is not."""
    path = _header_path(output)
    if not path.exists():
        if output.exists() and output.stat().st_size:
            raise BatchError(f"{output} is there already and is no batch job's: move it away, or name another output")
        _write_header(output, header)
        return header
    try:
        found = msgspec.json.decode(path.read_bytes(), type=JobHeader)
    except msgspec.DecodeError as error:
        raise BatchError(f"{path}: {error}") from None
    changed = [name for name in ("input_sha256", "seed") if getattr(found, name) != getattr(header, name)]
    if changed:
        raise BatchError(
            f"{output} holds results of another job (other {', '.join(changed)}): move it away, or name another output"
        )
    return found


def _write_header(output: Path, header: JobHeader) -> None:
    path = _header_path(output)
    scratch = Path(f"{path}.new")
    with scratch.open("wb") as file:
        file.write(msgspec.json.encode(header) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)


def _header_path(output: Path) -> Path:
    return Path(f"{output}.job")


def _sync_folder(folder: Path) -> None:
    """Put the names of new files on the disk too."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
