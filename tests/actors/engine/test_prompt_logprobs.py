"""Log-probabilities of a prompt's tokens: those of transformers, however the prompt was computed."""

from typing import Any

import pytest
import torch

from actors.engine.blocks import BlockPool
from actors.engine.config import EngineConfig
from actors.engine.params import GenerationParams
from actors.engine.prompt_logprobs import MAX_NUM_VALUES, max_num_prompt_logits
from actors.engine.request import Delta, Request, TokenLogprobs
from actors.engine.sampler import SamplerState
from actors.engine.scheduler import Scheduler
from actors.engine.sequence import Sequence
from actors.engine.stopping import StopState
from tests.actors.engine.harness import ragged_prompts, requests, run, tiny_engine, tiny_loaded, tokens

ASKED = GenerationParams(max_new_tokens=4, prompt_logprobs=3)
PROMPTS = [*ragged_prompts(5, seed=2, longest=60), (7,), (7, 8)]


@torch.inference_mode()
def reference(architecture: str, prompt: tuple[int, ...]) -> torch.Tensor:
    """Log-softmax of transformers' own logits, (tokens - 1, vocab)."""
    model = tiny_loaded(architecture).model
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        logits = model(torch.tensor([prompt])).logits[0]
    finally:
        model.set_attn_implementation(before)
    logprobs: torch.Tensor = logits.to(torch.float32).log_softmax(-1)[:-1]
    return logprobs


def check(architecture: str, prompt: tuple[int, ...], got: tuple[TokenLogprobs, ...] | None, num_top: int = 3) -> None:
    assert got is not None
    wanted = reference(architecture, prompt)
    assert len(got) == len(prompt) - 1
    for entry, row, token_id in zip(got, wanted, prompt[1:], strict=True):
        assert entry.logprob == pytest.approx(row[token_id].item(), abs=1e-4)
        top = row.topk(num_top)
        assert [value for _, value in entry.top] == pytest.approx(top.values.tolist(), abs=1e-4)
        assert [token for token, _ in entry.top] == top.indices.tolist()


def of_prompt(deltas: list[Delta]) -> tuple[TokenLogprobs, ...] | None:
    """What came with the first token, and with no other."""
    assert all(delta.prompt_logprobs is None for delta in deltas[1:])
    return deltas[0].prompt_logprobs


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "mamba"])
def test_they_are_those_of_transformers(architecture: str) -> None:
    deltas = run(tiny_engine(architecture), requests(PROMPTS, ASKED))
    for index, prompt in enumerate(PROMPTS):
        check(architecture, prompt, of_prompt(deltas[f"r{index}"]))


@pytest.mark.parametrize(
    "config", [{"max_num_batched_tokens": 8}, {"num_blocks": 20}, {"num_blocks": 20, "max_num_batched_tokens": 16}]
)
def test_neither_chunks_nor_preemption_show(config: dict[str, Any]) -> None:
    engine = tiny_engine(**config)
    both = (GenerationParams(max_new_tokens=16), GenerationParams(max_new_tokens=16, prompt_logprobs=3))
    params = [both[index % 2] for index in range(len(PROMPTS))]
    deltas = run(engine, requests(PROMPTS, params))
    for index, prompt in enumerate(PROMPTS):
        if index % 2:
            check("llama", prompt, of_prompt(deltas[f"r{index}"]))
        else:
            assert of_prompt(deltas[f"r{index}"]) is None
    assert tokens(deltas) == tokens(run(tiny_engine(), requests(PROMPTS, params)))
    assert engine.stats().num_preemptions > 0 or "num_blocks" not in config


def test_known_blocks_are_not_taken_where_logits_are_wanted() -> None:
    engine = tiny_engine()
    prompt = PROMPTS[0] * 3
    run(engine, requests([prompt], GenerationParams(max_new_tokens=4)))
    check("llama", prompt, of_prompt(run(engine, requests([prompt], ASKED))["r0"]))
    assert engine.stats().num_prefix_hit_tokens == 0
    run(engine, requests([prompt], GenerationParams(max_new_tokens=4)))
    assert engine.stats().num_prefix_hit_tokens > 0


def test_sampling_and_drafts_leave_them_alone() -> None:
    params = GenerationParams(
        max_new_tokens=12, do_sample=True, temperature=0.2, top_k=2, seed=3, logprobs=1, prompt_logprobs=3
    )
    deltas = run(tiny_engine(), requests(PROMPTS[:3], params), drafter=lambda _, ids: ids[-1:] * 3)
    plain = run(tiny_engine(), requests(PROMPTS[:3], params))
    assert tokens(deltas) == tokens(plain)
    for index, prompt in enumerate(PROMPTS[:3]):
        check("llama", prompt, of_prompt(deltas[f"r{index}"]))
        assert all(len(delta.logprobs or ()) == len(delta.token_ids) for delta in deltas[f"r{index}"])


def test_a_continued_request_does_not_ask_again() -> None:
    request = Request(request_id="r0", prompt_token_ids=PROMPTS[0], params=ASKED, emitted_token_ids=(9,))
    assert of_prompt(run(tiny_engine(), [request])["r0"]) is None


def test_an_asking_prompt_that_a_draft_reads_too() -> None:
    engine = tiny_engine()
    engine.open(Request(request_id="d", prompt_token_ids=PROMPTS[0], params=ASKED))
    engine.extend("d", len(PROMPTS[0]), [], 3)
    [delta] = [delta for _ in range(3) for delta in engine.step()]
    assert len(delta.token_ids) == 3
    assert delta.prompt_logprobs is None


def test_one_forward_yields_a_bounded_number_of_rows() -> None:
    assert max_num_prompt_logits(150_000) * 150_000 <= MAX_NUM_VALUES
    assert max_num_prompt_logits(10**9) == 1
    config = EngineConfig(block_size=4, num_blocks=64)
    scheduler = Scheduler(config, BlockPool(64, 4), max_num_prompt_logits=10)
    sequences = []
    for name, params in (("a", ASKED), ("b", ASKED), ("c", GenerationParams(max_new_tokens=4))):
        request = Request(request_id=name, prompt_token_ids=tuple(range(4, 18)), params=params)
        stopping = StopState.build(params, 14, 100, None)
        sampler = SamplerState.build(params, 14, tiny_loaded("llama"), request.prompt_token_ids)
        sequences.append(Sequence(request, sampler, stopping, is_draft=False))
        scheduler.add(sequences[-1])
    rows = []
    while any(sequence.num_computed_tokens < 14 for sequence in sequences):
        plan = scheduler.schedule()
        rows.append([(item.sequence.request_id, len(item.span.token_ids), item.num_prompt_logits) for item in plan])
        for item in plan:
            item.sequence.num_computed_tokens = item.span.end
            if item.sequence.prompt_logprobs is not None:
                item.sequence.prompt_logprobs += [TokenLogprobs(0.0)] * item.num_prompt_logits
            if item.num_samples:
                item.sequence.is_held = True
    assert rows == [[("a", 10, 10)], [("a", 4, 3), ("b", 7, 7), ("c", 14, 0)], [("b", 7, 6)]]
