"""A target and its draft, both real engines over tiny random models with a byte-level tokenizer, driven in lockstep."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from actors.engine.config import EngineConfig
from actors.engine.engine import Engine
from actors.engine.loaded import LoadedModel
from actors.engine.request import Delta, FinishReason, Request
from tests.actors.engine.tiny_models import make_tiny, tiny_tokenizer

CONTEXT = 4096
EOS = 2
NOISE = 0.02  # on a draft's weights, relative to their spread: it agrees with its target most of the time


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of both."""
    return tiny_tokenizer(mkdtemp())


@cache
def tiny_loaded(*, is_draft: bool = False, has_tokenizer: bool = True) -> LoadedModel:
    """A tiny random Llama in float32; the draft has the same weights, a little off."""
    path = make_tiny("llama", Path(mkdtemp()), max_position_embeddings=CONTEXT)
    model = AutoModelForCausalLM.from_pretrained(path).eval()
    if is_draft:
        source = torch.Generator().manual_seed(1)
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=source)
            parameter.data.add_(noise * parameter.data.std(correction=0) * NOISE)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer() if has_tokenizer else None,
        generation_config=model.generation_config,
        num_blocks=4096,
        weight_bytes=0,
        kv_bytes_per_token=0,
    )


def engine(*, is_draft: bool = False, has_tokenizer: bool = True, **config: object) -> Engine:
    """An engine over one of the two models."""
    settings = {"block_size": 16, "num_blocks": 4096, "max_num_seqs": 256, "num_threads": 1, **config}
    return Engine(tiny_loaded(is_draft=is_draft, has_tokenizer=has_tokenizer), EngineConfig(**settings))  # type: ignore[arg-type]


def run(
    target: Engine, requests: Sequence[Request], draft: Engine | None = None, num_draft_tokens: int = 4
) -> dict[str, tuple[list[int], FinishReason]]:
    """Run requests to their ends, a proposal before each step where there is a draft: emitted ids, why they end."""
    ids = {request.request_id: [*request.prompt_token_ids, *request.emitted_token_ids] for request in requests}
    news = {request_id: list(sequence) for request_id, sequence in ids.items()}
    ends: dict[str, FinishReason] = {}
    for request in requests:
        target.add(request)
        if draft is not None:
            draft.open(request)
    while target.has_work():
        deltas = target.step()
        for delta in deltas:
            assert not delta.error, f"{delta.request_id}: {delta.error}"
            ids[delta.request_id] += delta.token_ids
            news[delta.request_id] = list(delta.token_ids)
            if delta.finish_reason is not None:
                ends[delta.request_id] = delta.finish_reason
        if draft is not None:
            _propose(target, draft, [delta for delta in deltas if delta.finish_reason is None], ids, num_draft_tokens)
            for request_id in [delta.request_id for delta in deltas if delta.finish_reason is not None]:
                draft.abort(request_id)
    target.check_integrity()
    return {
        request.request_id: (ids[request.request_id][len(request.prompt_token_ids) :], ends[request.request_id])
        for request in requests
    }


def _propose(
    target: Engine, draft: Engine, deltas: Sequence[Delta], ids: dict[str, list[int]], num_draft_tokens: int
) -> None:
    """Tell the draft what the target has confirmed, let it run, and hand the target what it proposes."""
    for delta in deltas:
        known = ids[delta.request_id]
        draft.extend(delta.request_id, len(known) - len(delta.token_ids), delta.token_ids, num_draft_tokens)
    while draft.has_work():
        for proposal in draft.step():
            target.propose(proposal.request_id, len(ids[proposal.request_id]), proposal.token_ids)


def text(token_ids: Sequence[int]) -> str:
    """What a sequence says."""
    return str(tokenizer().decode(list(token_ids), skip_special_tokens=True))
