"""API keys: who may ask. Read from a file or the environment, kept as digests, compared in constant time.

``SLIPSTREAM_API_KEY`` holds one key, ``SLIPSTREAM_API_KEYS`` several with commas or blanks between them; a file
(``api_keys_file`` of the configuration) holds one a line, blank lines and lines that begin with ``#`` apart. With none
of these the door is open. Keys never appear in logs or errors.
"""

import hashlib
import hmac
import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from actors.engine.errors import ConfigError

logger = logging.getLogger(__name__)

ONE_KEY = "SLIPSTREAM_API_KEY"
MANY_KEYS = "SLIPSTREAM_API_KEYS"
CHECK_INTERVAL = 1.0  # seconds between two looks at whether the file has changed

_SEPARATORS = re.compile(r"[\s,]+")
_KEY = re.compile(r"[!-~]+")  # what a header can carry: visible ASCII
_BEARER = re.compile(rb"bearer +([!-~]+) *", re.IGNORECASE)

Digest = bytes


class Keys:
    """The keys that open the door.

    Args:
        file: of keys, looked at again when it changes; None where there is none.
        environ: the environment that more keys may come from.
        clock: seconds.

    Raises:
        ConfigError: the file cannot be read, or there is no key, or one that no header can carry. Names the place.
    """

    def __init__(
        self, file: Path | None, environ: Mapping[str, str], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._file = file
        self._fixed = environment_digests(environ)
        self._clock = clock
        self._checked_at = clock()
        self._stamp = _stamp(file)
        self._digests = self._fixed + ([] if file is None else file_digests(file))
        if not self._digests:
            raise ConfigError(f"api_keys_file: at least one key is needed, but {file or 'the environment'} holds none")

    def accept(self, authorization: bytes) -> bool:
        """Whether an ``Authorization`` header carries one of the keys.

        Takes the same time whichever of the keys it is, and however much of one a wrong key has right: digests are
        compared, and all of them.
        """
        self._look_again()
        match = _BEARER.fullmatch(authorization)
        digest = _digest(match[1]) if match else b""
        return sum([hmac.compare_digest(digest, known) for known in self._digests]) > 0

    def _look_again(self) -> None:
        """Read the file again where it has changed. While it cannot be read, the keys that are known stay."""
        now = self._clock()
        if self._file is None or now - self._checked_at < CHECK_INTERVAL:
            return
        self._checked_at = now
        try:
            stamp = _stamp(self._file)
            if stamp == self._stamp:
                return
            self._digests = self._fixed + file_digests(self._file)
            self._stamp = stamp
        except ConfigError as error:
            logger.error("%s; the keys read before stay in force", error)
        else:
            logger.info("the API keys were read again: there are %d now", len(self._digests))


def load_keys(file: str | None, environ: Mapping[str, str] = os.environ) -> Keys | None:
    """The keys that are set here, None where neither a file nor the environment demands any. Raises ConfigError."""
    return Keys(None if file is None else Path(file), environ) if are_demanded(file, environ) else None


def are_demanded(file: str | None, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether a file is configured, or the environment of this process holds keys."""
    return file is not None or any(environ.get(name, "").strip() for name in (ONE_KEY, MANY_KEYS))


def environment_digests(environ: Mapping[str, str]) -> list[Digest]:
    """Digests of the keys in an environment. Raises ConfigError naming the variable."""
    one = environ.get(ONE_KEY, "").strip()
    many = [key for key in _SEPARATORS.split(environ.get(MANY_KEYS, "")) if key]
    return _digests([(ONE_KEY, one)] if one else []) + _digests((MANY_KEYS, key) for key in many)


def file_digests(file: Path) -> list[Digest]:
    """Digests of the keys in a file. Raises ConfigError naming the file, and the line where one is at fault."""
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"api_keys_file: {file} cannot be read: {type(error).__name__}") from None
    keys = [(f"line {number} of {file}", line) for number, line in enumerate(lines, 1) if line and line[0] != "#"]
    return _digests(keys)


def _digests(keys: Iterable[tuple[str, str]]) -> list[Digest]:
    """Digests of (place, key) pairs. Raises ConfigError naming the place, never the key."""
    digests = []
    for place, key in keys:
        if not _KEY.fullmatch(key):
            raise ConfigError(f"api_keys_file: {place}: a key is visible ASCII characters without blanks")
        digests.append(_digest(key.encode()))
    return digests


def _digest(key: bytes) -> Digest:
    return hashlib.sha256(key).digest()


def _stamp(file: Path | None) -> tuple[int, int, int]:
    """What changes when a file is written anew or replaced. Raises ConfigError where it is not there."""
    if file is None:
        return 0, 0, 0
    try:
        found = file.stat()
    except OSError as error:
        raise ConfigError(f"api_keys_file: {file} cannot be read: {type(error).__name__}") from None
    return found.st_ino, found.st_mtime_ns, found.st_size
