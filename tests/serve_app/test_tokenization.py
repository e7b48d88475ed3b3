"""``/tokenize`` and ``/detokenize``, in vLLM's shapes, and tokenizers one token at a time."""

from typing import Any

import pytest
from litestar import Litestar
from litestar.testing import AsyncTestClient
from transformers import AutoTokenizer

from cluster.demo import TARGET_PATH
from serve_app.tokenizer import SlowTokenizer, Tokenizer, adapt, token_bytes
from tests.serve_app.fakes import MAX_MODEL_LEN, MODEL, TEXT, TOKENIZER

pytestmark = pytest.mark.anyio
Http = AsyncTestClient[Litestar]
HELLO = [{"role": "user", "content": "Hello"}]


async def post(http: Http, url: str, **body: Any) -> dict[str, Any]:
    """Post and expect success."""
    response = await http.post(url, json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def test_a_text_there_and_back(http: Http) -> None:
    ids = TOKENIZER.encode(TEXT)
    answer = await post(http, "/tokenize", prompt=TEXT, model=MODEL)
    assert answer == {"count": len(ids), "max_model_len": MAX_MODEL_LEN, "tokens": ids, "token_strs": None}
    assert await post(http, "/detokenize", tokens=ids, model=MODEL) == {"prompt": TEXT}
    assert await post(http, "/detokenize", tokens=[0, ids[0]]) == {"prompt": "<eos> The"}
    assert await post(http, "/detokenize", tokens=[]) == {"prompt": ""}


async def test_tokens_as_they_are_spelt(http: Http) -> None:
    answer = await post(http, "/tokenize", prompt=" The", return_token_strs=True)
    assert answer["token_strs"] == ["ĠThe"]
    assert (await post(http, "/tokenize", prompt="", add_special_tokens=False))["tokens"] == []


async def test_a_conversation(http: Http) -> None:
    answer = await post(http, "/tokenize", messages=HELLO)
    assert answer["tokens"] == TOKENIZER.encode("[user]Hello[assistant]")
    answer = await post(http, "/tokenize", messages=HELLO, add_generation_prompt=False)
    assert answer["tokens"] == TOKENIZER.encode("[user]Hello")


@pytest.mark.parametrize(
    ("url", "body", "status", "param"),
    [
        ("/tokenize", {}, 400, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": HELLO}, 400, "prompt"),
        ("/tokenize", {"messages": []}, 400, "messages"),
        ("/tokenize", {"prompt": "a", "model": "other"}, 404, "model"),
        ("/tokenize", {"prompt": 1}, 422, "prompt"),
        ("/detokenize", {"tokens": [290]}, 400, "tokens"),
        ("/detokenize", {"tokens": [-1]}, 400, "tokens"),
        ("/detokenize", {"tokens": [10**40]}, 400, "tokens"),
        ("/detokenize", {}, 422, "tokens"),
    ],
)
async def test_bad_requests(http: Http, url: str, body: dict[str, Any], status: int, param: str) -> None:
    response = await http.post(url, json=body)
    assert response.status_code == status, response.text
    assert response.json()["error"]["param"] == param


def _tokenizers() -> list[Tokenizer]:
    theirs = AutoTokenizer.from_pretrained(TARGET_PATH)
    return [TOKENIZER, adapt(theirs), SlowTokenizer(theirs)]


@pytest.mark.parametrize("tokenizer", _tokenizers(), ids=["toy", "fast", "slow"])
def test_bytes_of_tokens_add_up_to_the_text(tokenizer: Tokenizer) -> None:
    pieces = [token_bytes(tokenizer, token_id) for token_id in tokenizer.encode(TEXT)]
    assert b"".join(pieces).decode() == TEXT
    assert len(pieces) > len(TEXT.split())


def test_bytes_of_other_tokens() -> None:
    assert token_bytes(TOKENIZER, 0) == b"<eos>"
    assert token_bytes(TOKENIZER, 9999) == b""


def test_bytes_of_byte_tokens() -> None:
    """Sentencepiece's way to spell what its vocabulary lacks."""
    from tokenizers import Tokenizer as RustTokenizer
    from tokenizers import decoders, models

    pieces = [("<unk>", 0.0), ("\N{LOWER ONE EIGHTH BLOCK}a", -1.0), ("a", -2.0), ("<0xC3>", -9.0), ("<0xA9>", -9.0)]
    rust = RustTokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    rust.decoder = decoders.Sequence(
        [
            decoders.Replace("\N{LOWER ONE EIGHTH BLOCK}", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer = adapt(_Backed(rust))
    assert [token_bytes(tokenizer, token_id) for token_id in (1, 2, 3, 4)] == [b" a", b"a", b"\xc3", b"\xa9"]


class _Backed:
    """As much of a tokenizer of transformers as says what is behind it."""

    def __init__(self, rust: Any) -> None:
        self.backend_tokenizer = rust
