"""What a grammar costs: masks in two sizes of vocabulary, compiling, and 16 streams of the demo target."""

import random
import time
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from actors.engine.config import EngineConfig, ModelConfig
from actors.engine.engine import Engine
from actors.engine.grammar import Grammar, JsonSchemaGrammar
from actors.engine.grammar_compiler import GrammarCompiler
from actors.engine.grammar_mask import mask_scores
from actors.engine.grammar_state import GrammarState
from actors.engine.loaded import LoadedModel
from actors.engine.loading import load_model
from actors.engine.params import GenerationParams
from actors.engine.request import Request
from tests.benchmarks.measure import Report, interleave, sample, timed

NUM_STREAMS = 16
NUM_NEW_TOKENS = 96
LARGE_VOCABULARY = 151_936
PROPERTIES = {
    "name": {"type": "string"},
    "age": {"type": "integer"},
    "tags": {"type": "array", "items": {"enum": ["a", "b"]}},
}
SCHEMA = {"type": "object", "properties": PROPERTIES, "required": list(PROPERTIES), "additionalProperties": False}
TEXT = '{"name": "' + "some words that go on and on, " * 8 + '", "age": 77, "tags": ["a", "b", "a"]}'
# As long as the demo target's texts, so that both contenders write as many tokens.
LONG = JsonSchemaGrammar(schema={"type": "string", "minLength": 20 * NUM_NEW_TOKENS})


def run(repeats: int) -> Report:
    """Measure and report."""
    report = Report(
        name="grammar",
        what="what a grammar costs",
        settings={"streams": NUM_STREAMS, "new tokens": NUM_NEW_TOKENS, "threads": 1, "schema": SCHEMA},
    )
    torch.set_num_threads(1)
    loaded = load_model(ModelConfig(model="demo", dtype="float32"), EngineConfig())
    assert isinstance(loaded.tokenizer, PreTrainedTokenizerFast)
    for tokenizer in (loaded.tokenizer, large_tokenizer()):
        size = f"{len(tokenizer):,} tokens"
        compiler = GrammarCompiler(tokenizer, len(tokenizer))
        costs = [positions(compiler, tokenizer) for _ in range(repeats)]
        for name in costs[0]:
            report.samples[f"{name}, {size}"] = sample("us", [cost[name] for cost in costs])
    schemas = [JsonSchemaGrammar(schema={**SCHEMA, "title": str(number)}) for number in range(repeats)]
    report.samples["compile a small schema"] = sample("ms", [compiling(compiler, schema) for schema in schemas])
    wide = {f"property {number}": {"type": "string", "maxLength": 99} for number in range(1500)}
    schemas = [JsonSchemaGrammar(schema={"properties": wide, "title": str(number)}) for number in range(repeats)]
    report.samples["compile 1,500 properties"] = sample("ms", [compiling(compiler, schema) for schema in schemas])
    contenders = {"plain": streams(loaded, None), "with a grammar": streams(loaded, LONG)}
    report.samples |= interleave(contenders, unit="tok/s", repeats=repeats)
    report.ratio("tokens/s with a grammar over plain", "with a grammar", "plain", None)
    return report


@cache
def large_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level vocabulary of the size of a large model's: words, pieces of words and of punctuation at random."""
    source = random.Random(0)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokens = dict.fromkeys(["<|end|>", *sorted(alphabet)])
    while len(tokens) < LARGE_VOCABULARY:
        letters = source.choice(['{}[]":,.-_/()<>=', "etaoinshrdlucmfwypvbgkjqxz", "etaoins"])
        word = "".join(source.choice(letters) for _ in range(source.randint(2, 8)))
        tokens[source.choice(["Ġ", ""]) + word] = None
    core = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken("<|end|>", special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|end|>")


def positions(compiler: GrammarCompiler, tokenizer: PreTrainedTokenizerFast) -> dict[str, float]:
    """Medians over the positions of a text, in microseconds: knowing the legal tokens, and masking the scores too."""
    ids = tokenizer.encode(TEXT, add_special_tokens=False)
    scores = torch.zeros(1, compiler.vocab_size)
    found: dict[str, float] = {}
    works: dict[str, Callable[[GrammarState, int], object]] = {
        "legal tokens": lambda state, num_ids: state.legal(ids, num_ids),
        "legal tokens and mask": lambda state, num_ids: mask_scores(scores, {0: (state, ids, num_ids)}),
    }
    for name, work in works.items():
        params = GenerationParams(grammar=JsonSchemaGrammar(schema=SCHEMA))
        state = GrammarState.begin(params, 0, compiler, is_draft=False)
        assert state is not None
        state.grammar.future.result()
        times = []
        for num_ids in range(len(ids)):
            started = time.perf_counter()
            work(state, num_ids)
            times.append(time.perf_counter() - started)
        found[name] = float(np.median(times)) * 1e6
    return found


def compiling(compiler: GrammarCompiler, grammar: Grammar) -> float:
    """Milliseconds."""
    started = time.perf_counter()
    compiler.compile(grammar).future.result()
    return (time.perf_counter() - started) * 1e3


def streams(loaded: LoadedModel, grammar: Grammar | None) -> Callable[[], float]:
    """Tokens a second of a whole batch."""
    engine = Engine(loaded, EngineConfig(num_blocks=512, num_threads=1, prefix_cache=False))
    assert loaded.tokenizer is not None
    prompt = tuple(loaded.tokenizer.encode("It was a dark night"))

    def work() -> int:
        for seed in range(NUM_STREAMS):
            params = GenerationParams(
                max_new_tokens=NUM_NEW_TOKENS, ignore_eos=True, do_sample=True, seed=seed, grammar=grammar
            )
            engine.add(Request(request_id=str(seed), prompt_token_ids=prompt, params=params))
        num_tokens = 0
        while engine.has_work():
            num_tokens += sum(len(delta.token_ids) for delta in engine.step())
        return num_tokens

    return timed(work)
