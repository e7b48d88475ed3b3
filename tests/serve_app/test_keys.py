"""Who may come in: keys from files and the environment, on every route but those that tell of the process."""

import hmac
import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from litestar import Litestar
from litestar.testing import AsyncTestClient

from actors.engine.errors import ConfigError
from serve_app.ingress import make_builder
from serve_app.keys import MANY_KEYS, ONE_KEY, Keys, are_demanded, load_keys
from tests.serve_app.fakes import FakeClient, make_app

KEY, OTHER = "sk-first-0123456789", "sk-second-0123456789"


class Clock:
    """Moves on by an hour with each look."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 3600
        return self.now


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of one key."""
    file = tmp_path / "keys"
    write(file, f"# of the first team\n\n  {KEY}  \n")
    return file


def write(file: Path, text: str) -> None:
    """Replace a file, with a time of its own: clocks of file systems are coarse."""
    before = file.stat().st_mtime_ns if file.is_file() else 0
    file.write_text(text)
    os.utime(file, ns=(before + 10**9, before + 10**9))


def bearer(key: str) -> bytes:
    return f"Bearer {key}".encode()


def test_keys_of_the_environment() -> None:
    keys = Keys(None, {ONE_KEY: f" {KEY}\n", MANY_KEYS: f"{OTHER}, sk-third\nsk-fourth"})
    for key in (KEY, OTHER, "sk-third", "sk-fourth"):
        assert keys.accept(bearer(key))
    assert keys.accept(f"bearer   {KEY} ".encode())


@pytest.mark.parametrize(
    "header",
    [b"", b"Bearer", b"Bearer ", b"Basic " + KEY.encode(), KEY.encode(), bearer(KEY[:-1]), bearer(KEY + "x"),
     bearer(KEY.upper()), bearer(f"{KEY} {KEY}"), b"Bearer \xff\xfe", bearer("")],
)  # fmt: skip
def test_what_opens_nothing(header: bytes) -> None:
    assert not Keys(None, {ONE_KEY: KEY}).accept(header)


def test_every_key_is_compared_whichever_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []
    real = hmac.compare_digest

    def compare(given: bytes, known: bytes) -> bool:
        compared.append(known)
        return real(given, known)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    keys = Keys(None, {MANY_KEYS: f"{KEY} {OTHER} sk-third"})
    for header in (bearer(KEY), bearer("sk-third"), bearer("wrong"), b""):
        compared.clear()
        keys.accept(header)
        assert len(set(compared)) == 3
        assert all(len(digest) == 32 for digest in compared)  # never the keys themselves


def test_a_file_that_changes_is_read_again(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    keys = Keys(file, {}, Clock())
    assert keys.accept(bearer(KEY))
    with caplog.at_level(logging.DEBUG):
        write(file, f"{OTHER}\n")
        assert not keys.accept(bearer(KEY))
        assert keys.accept(bearer(OTHER))
        file.unlink()
        assert keys.accept(bearer(OTHER))  # gone for a moment, as when a secret is rotated
        write(file, "")
        assert not keys.accept(bearer(OTHER))  # empty on purpose: nobody comes in
    assert "cannot be read" in caplog.text
    assert KEY not in caplog.text and OTHER not in caplog.text


def test_a_file_that_nothing_can_be_made_of(tmp_path: Path, file: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_keys(str(tmp_path / "none"), {})
    write(file, "# nothing but a comment\n")
    with pytest.raises(ConfigError, match="at least one key"):
        load_keys(str(file), {})
    write(file, f"{KEY}\nsk with blanks\n")
    with pytest.raises(ConfigError, match="line 2") as error:
        load_keys(str(file), {})
    assert "blanks\n" not in str(error.value) and KEY not in str(error.value)


def test_keys_are_demanded_where_any_are_set() -> None:
    assert load_keys(None, {ONE_KEY: "", MANY_KEYS: " "}) is None
    assert are_demanded("/etc/keys", {}) and are_demanded(None, {ONE_KEY: KEY}) and are_demanded(None, {MANY_KEYS: KEY})


def test_an_ingress_that_lost_its_keys_on_the_way_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ONE_KEY, raising=False)
    monkeypatch.delenv(MANY_KEYS, raising=False)
    assert isinstance(make_builder({})(), Litestar)
    with pytest.raises(ConfigError, match="api_keys_file"):
        make_builder({}, needs_keys=True)()


@pytest.fixture
async def http(fake: FakeClient, file: Path) -> AsyncIterator[AsyncTestClient[Litestar]]:
    """A server that demands a key."""
    async with AsyncTestClient(make_app(fake, keys=Keys(file, {}))) as client:
        yield client


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/completions"), ("POST", "/generate"), ("GET", "/v1/models"), ("GET", "/status"),
        ("GET", "/metrics"), ("GET", "/docs/openapi.json"), ("GET", "/no/such/route"), ("GET", "/health/"),
        ("GET", "/static/../status"), ("PUT", "/v1/models"),
    ],
)  # fmt: skip
async def test_without_a_key(http: AsyncTestClient[Litestar], fake: FakeClient, method: str, path: str) -> None:
    for headers in ({}, {"authorization": "Bearer sk-wrong"}):
        response = await http.request(method, path, headers=headers, content=b"not even json")
        assert response.status_code == 401
        assert response.headers["www-authenticate"].startswith("Bearer")
        error = response.json()["error"]
        assert error["type"] == "invalid_request_error"
        assert error["code"] == ("invalid_api_key" if headers else "missing_api_key")
        assert "sk-" not in response.text
    assert not fake.requests


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["/health", "/ready", "/", "/docs", "/static/app.js"])
async def test_what_is_open_to_all(http: AsyncTestClient[Litestar], path: str) -> None:
    assert (await http.get(path)).status_code == 200


@pytest.mark.anyio
async def test_with_a_key(http: AsyncTestClient[Litestar]) -> None:
    headers = {"authorization": f"Bearer {KEY}"}
    for path in ("/v1/models", "/status", "/metrics"):
        assert (await http.get(path, headers=headers)).status_code == 200
    response = await http.post("/v1/completions", json={"prompt": "a"}, headers=headers)
    assert response.status_code == 200
    assert (await http.get("/nothing", headers=headers)).status_code == 404
    assert 'http_errors_total{model_name="toy",status="404"} 1' in (await http.get("/metrics", headers=headers)).text
