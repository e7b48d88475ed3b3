"""Same seed, same tokens: whatever drafts, however far, in turn or ahead, alone or in a crowd.

``python -m tests.conformance.same_tokens --tokens 100000`` compares that many tokens and writes its result beside this
file. Everything is float32 and real engines run; what is compared with is the target's own run, one request at a time,
with nothing ahead of it.
"""

import argparse
import itertools
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from tqdm import tqdm

from actors.config import RouterConfig, WorkerConfig
from actors.engine.config import EngineConfig, ModelConfig
from actors.engine.engine import Engine
from actors.engine.loading import load_model
from actors.engine.params import GenerationParams
from actors.engine.request import Request
from actors.translation_loading import load_translation
from tests.conformance.loops import Draft, Loops
from tests.conformance.vocabularies import (
    NUM_SPECIAL,
    NUM_WORDS,
    make_draft,
    make_foreign_draft,
    make_target,
)

RESULT = Path(__file__).with_suffix(".json")
ENGINE = EngineConfig(block_size=16, num_blocks=1024, max_num_seqs=64, num_threads=1)
CROWD = 12
DRAFTERS = ("none", "draft a", "draft b", "prompt lookup", "early exit", "other vocabulary")


@dataclass(frozen=True)
class Way:
    """One way to come to the tokens."""

    drafter: str
    num_assistant_tokens: int
    is_overlapped: bool
    is_crowded: bool


WAYS = tuple(
    Way(*parts)
    for parts in itertools.product(DRAFTERS, range(1, 9), (False, True), (False, True))
    if parts[0] != "none" or parts[1:3] == (1, False)  # the others are no other way for it
)


class Bench:
    """The models, loaded once."""

    def __init__(self, folder: Path) -> None:
        target = make_target(folder / "target")
        self._paths = {
            "draft a": make_draft(folder / "a", target, noise=0.01, seed=1),
            "draft b": make_draft(folder / "b", target, noise=0.1, seed=2),
            "other vocabulary": make_foreign_draft(folder / "foreign", target, noise=0.01, seed=3),
        }
        self.target = _engine(target)
        self.drafts = {name: self._draft(path, target) for name, path in self._paths.items()}

    def loops(self, way: Way, seed: int) -> Loops:
        """Fresh loops over the engines, which keep their prefix caches."""
        config = RouterConfig(num_assistant_tokens=way.num_assistant_tokens, overlap=way.is_overlapped)
        drafts = {name: draft for name, draft in self.drafts.items() if name == way.drafter}
        return Loops(self.target, self.target.vocab_size, drafts, config, seed)

    def _draft(self, path: Path, target: Path) -> Draft:
        engine = _engine(path)
        config = WorkerConfig(model=ModelConfig(model=str(path)), assists=ModelConfig(model=str(target)))
        return Draft(engine, engine.vocab_size, load_translation(config, engine.vocab_size))


def _engine(path: Path) -> Engine:
    return Engine(load_model(ModelConfig(model=str(path), dtype="float32"), ENGINE), ENGINE)


def make_requests(prefix: str, count: int, num_new: int, seed: int) -> list[Request]:
    """Greedy and sampled requests behind prompts that repeat themselves."""
    source = random.Random(seed)
    found = []
    for index in range(count):
        words = [source.randrange(NUM_SPECIAL, NUM_SPECIAL + NUM_WORDS) for _ in range(source.randint(2, 12))]
        params = GenerationParams(
            max_new_tokens=num_new,
            do_sample=index % 3 != 0,
            seed=source.randrange(2**62),
            temperature=source.choice([None, 0.3, 0.7, 1.0]),
            top_k=source.choice([None, 20]),
            top_p=source.choice([None, 0.9]),
            repetition_penalty=source.choice([None, None, 1.1]),
        )
        prompt = tuple(words * source.randint(1, 4))
        found.append(Request(request_id=f"{prefix}-{index}", prompt_token_ids=prompt, params=params))
    return found


def asking(request: Request, way: Way) -> Request:
    """The request as a caller asks for a way."""
    is_lookup = way.drafter == "prompt lookup"
    params = msgspec.structs.replace(
        request.params,
        num_assistant_tokens=way.num_assistant_tokens,
        prompt_lookup_num_tokens=way.num_assistant_tokens if is_lookup else None,
        assistant_early_exit=2 if way.drafter == "early exit" else None,
    )
    return msgspec.structs.replace(request, params=params)


@dataclass
class Count:
    """What was compared of one drafter, and what its drafts were worth."""

    num_tokens: int = 0
    num_differences: int = 0
    num_draft_tokens: int = 0
    num_accepted_tokens: int = 0


def compare(
    bench: Bench, num_tokens: int, num_new: int, seed: int = 0, ways: Sequence[Way] = WAYS
) -> Iterator[tuple[Way, Count]]:
    """Go through all ways, over and over, until so many tokens are compared; yields what each turn has found."""
    num_compared = 0
    for cycle in itertools.count():
        requests = make_requests(f"c{cycle}", CROWD, num_new, seed + cycle)
        plain = bench.loops(Way("none", 1, is_overlapped=False, is_crowded=False), seed)
        want = [plain.run([request])[0] for request in requests]
        for turn, way in enumerate(ways):
            first, last = (0, CROWD) if way.is_crowded else (turn % CROWD, turn % CROWD + 1)
            found = _compare(bench, way, requests[first:last], want[first:last], seed + turn)
            num_compared += found.num_tokens
            yield way, found
            if cycle and num_compared >= num_tokens:
                return
        if num_compared >= num_tokens:
            return


def _compare(bench: Bench, way: Way, requests: Sequence[Request], want: Sequence[Sequence[int]], seed: int) -> Count:
    """One turn: the requests go one way, and must come to what each of them came to alone."""
    before = bench.target.stats()
    draft = way.drafter if way.drafter in bench.drafts else ""
    got = bench.loops(way, seed).run([asking(request, way) for request in requests], draft)
    after = bench.target.stats()
    return Count(
        sum(map(len, want)),
        sum(a != b for mine, theirs in zip(got, want, strict=True) for a, b in itertools.zip_longest(mine, theirs)),
        after.num_draft_tokens - before.num_draft_tokens,
        after.num_accepted_tokens - before.num_accepted_tokens,
    )


def totals(found: Iterator[tuple[Way, Count]]) -> dict[str, Count]:
    """By drafter."""
    sums: dict[str, Count] = {}
    for way, count in found:
        known = sums.setdefault(way.drafter, Count())
        for name, value in vars(count).items():
            setattr(known, name, getattr(known, name) + value)
    return sums


def main() -> int:
    """Compare, show a table, write the result; the exit code is 1 where anything differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--new", type=int, default=48, help="tokens of a request")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, tqdm(total=options.tokens, unit="tok") as progress:
        bench = Bench(Path(folder))

        def watched() -> Iterator[tuple[Way, Count]]:
            for way, count in compare(bench, options.tokens, options.new, options.seed):
                progress.update(count.num_tokens)
                if count.num_differences:
                    progress.write(f"{way}: {count.num_differences} of {count.num_tokens} tokens differ")
                yield way, count

        sums = totals(watched())
    result = {
        "what": "same seed, same tokens, float32: differences from the target alone",
        "ways": len(WAYS),
        "num_tokens": sum(count.num_tokens for count in sums.values()),
        "num_differences": sum(count.num_differences for count in sums.values()),
        "by_drafter": {name: vars(count) for name, count in sums.items()},
        "seconds": round(time.perf_counter() - started, 1),
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(result, indent=2) + "\n")
    return int(bool(result["num_differences"]))


if __name__ == "__main__":
    sys.exit(main())
