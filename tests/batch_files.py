"""Files of batch requests, and what is to be read out of files of results."""

import json
import random
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

SCHEMA = {"type": "object", "properties": {"name": {"enum": ["Tom", "Huck"]}, "brave": {"type": "boolean"}}}


def text_requests(count: int, seed: int = 0, max_tokens: int = 96) -> list[dict[str, Any]]:
    """Ragged requests of prose for the embedded pair: greedy, sampled, penalized, as chats, and as JSON."""
    from cluster.demo import HELD_OUT_PATH

    words = HELD_OUT_PATH.read_text().split()
    source = random.Random(seed)
    requests = []
    for index in range(count):
        length = source.randint(3, 120)
        begin = source.randrange(len(words) - length)
        prompt = " ".join(words[begin : begin + length])
        body: dict[str, Any] = {"model": "demo", "max_tokens": source.randint(4, max_tokens)}
        kind = ("greedy", "sampled", "penalized", "chat", "json")[index % 5]
        if kind == "greedy":
            body |= {"temperature": 0}
        elif kind == "penalized":
            body |= {"repetition_penalty": 1.2, "top_p": 0.9, "n": 2}
        elif kind == "json":
            body |= {"response_format": {"type": "json_schema", "json_schema": {"name": "who", "schema": SCHEMA}}}
        is_chat = kind in ("chat", "json")
        body |= {"messages": [{"role": "user", "content": prompt}]} if is_chat else {"prompt": prompt}
        url = "/v1/chat/completions" if is_chat else "/v1/completions"
        requests.append({"custom_id": f"{kind}-{index}", "method": "POST", "url": url, "body": body})
    return requests


def write_lines(path: Path, requests: Iterable[dict[str, Any]]) -> None:
    """One request a line."""
    path.write_text("".join(json.dumps(request) + "\n" for request in requests))


def texts(path: Path) -> dict[str, Any]:
    """What the requests of a file of results got, without ids and times. Raises AssertionError for a doubled result."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    twice = [key for key, count in Counter(record["custom_id"] for record in records).items() if count > 1]
    assert not twice, f"more than one result for {twice}"
    return {record["custom_id"]: _content(record) for record in records}


def _content(record: dict[str, Any]) -> Any:
    if record["response"] is None:
        return record["error"]
    body = record["response"]["body"]
    return body.get("choices", body)
