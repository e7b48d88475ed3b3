"""Early exit: a target drafts for itself with its first layers only (LayerSkip; Elhoushi et al. 2024).

::

    confirmed ........ t |              one id whose keys and values are missing, as in plain decoding
    first N layers     t -> a -> b -> c      one short forward each, for all such sequences together
    all layers         t    a    b    c      the step's own forward, which checks them

The short forwards write the keys and values of the first layers into the sequence's own blocks, where the step's
forward writes them again. So no cache, no weights and no prefill are needed beside the target's. Ids are chosen by the
one rule that the target follows, its noise included.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property

import torch

from actors.engine.batch import Span
from actors.engine.blueprint import decoder_layers
from actors.engine.errors import RequestError
from actors.engine.loaded import LoadedModel
from actors.engine.runner import Runner
from actors.engine.sampler import SampleRow, sample
from actors.engine.scheduled import Scheduled
from actors.engine.sequence import Sequence, Status

logger = logging.getLogger(__name__)

FIRST_LENGTH = 4
MAX_LENGTH = 8
PLACEHOLDER = 0


class EarlyExit:
    """Sequences that asked for early exit, and the layers to leave out. Belongs to one engine."""

    def __init__(self, loaded: LoadedModel, runner: Runner) -> None:
        self._model = loaded.model
        self._runner = runner
        self._lengths: dict[str, int] = {}  # ids to draft next, by request

    @cached_property
    def _layers(self) -> dict[int, str]:
        return decoder_layers(self._model)

    def add(self, sequence: Sequence) -> None:
        """Note a sequence that asks for it. Raises RequestError where the model has too few layers."""
        params = sequence.params
        num_layers = params.assistant_early_exit
        if num_layers is None:
            return
        depth = len(self._layers)
        if num_layers >= depth:
            raise RequestError(
                f"assistant_early_exit: at most {depth - 1} of the model's {depth} layers, but it is {num_layers}",
                field="assistant_early_exit",
                limit=str(depth - 1),
            )
        pinned = params.num_assistant_tokens
        length = FIRST_LENGTH if pinned is None else pinned
        if length and self._runner.is_chunkable:
            self._lengths[sequence.request_id] = length

    def judge(self, sequence: Sequence, num_drafts: int, num_accepted: int) -> None:
        """Draft further after drafts that were all right, and less far after others, unless the length is pinned."""
        length = self._lengths.get(sequence.request_id)
        if length is None or not num_drafts or sequence.params.num_assistant_tokens is not None:
            return
        longer = num_accepted == num_drafts
        self._lengths[sequence.request_id] = min(MAX_LENGTH, length + 1) if longer else max(1, num_accepted)

    def make_room(self, sequences: Mapping[str, Sequence], max_model_len: int) -> None:
        """Put placeholders behind the sequences that decode in the next forward, and forget those that ended."""
        for request_id, length in list(self._lengths.items()):
            sequence = sequences.get(request_id)
            if sequence is None:
                del self._lengths[request_id]
                continue
            is_decoding = sequence.status is Status.RUNNING and sequence.num_tokens_to_compute == 1
            if is_decoding and sequence.can_run:
                room = min(sequence.max_num_tokens, max_model_len) - sequence.num_tokens - 1
                sequence.drafts = [PLACEHOLDER] * max(0, min(length, room))

    def fill(self, plan: list[Scheduled]) -> list[Scheduled]:
        """Draft in place of the placeholders; the plan with what came of it."""
        mine = [item for item in plan if item.sequence.drafts and item.sequence.request_id in self._lengths]
        if not mine:
            return plan
        try:
            for num_layers in {item.sequence.params.assistant_early_exit or 0 for item in mine}:
                self._draft([i for i in mine if i.sequence.params.assistant_early_exit == num_layers], num_layers)
        except Exception:  # the step's own forward finds out whose fault it was
            logger.exception("early exit failed; its drafts are left as they are")
        filled = {id(item): replace(item, span=_span(item)) for item in mine}
        return [filled.get(id(item), item) for item in plan]

    def _draft(self, items: list[Scheduled], num_layers: int) -> None:
        with self._first_layers(num_layers):
            for offset in range(max(len(item.sequence.drafts) for item in items)):
                active = [item for item in items if len(item.sequence.drafts) > offset]
                sequences = [item.sequence for item in active]
                spans = [
                    replace(
                        item.span,
                        token_ids=item.sequence.ids(item.span.start + offset, item.span.start + offset + 1),
                        start=item.span.start + offset,
                        num_logits=1,
                    )
                    for item in active
                ]
                rows = [
                    SampleRow(s.sampler, [*s.token_ids, *s.drafts[:offset]], s.num_tokens + offset) for s in sequences
                ]
                chosen = sample(self._runner.forward(spans, num_layers), rows).token_ids
                for sequence, token_id in zip(sequences, chosen, strict=True):
                    sequence.drafts[offset] = token_id

    @contextmanager
    def _first_layers(self, count: int) -> Iterator[None]:
        """The model without its other layers; norm and head stay."""
        path = self._layers[0].rpartition(".")[0]  # of the list of layers
        owner, name = self._model.get_submodule(path.rpartition(".")[0]), path.rpartition(".")[2]
        layers = getattr(owner, name)
        setattr(owner, name, torch.nn.ModuleList(list(layers)[:count]))
        try:
            yield
        finally:
            setattr(owner, name, layers)


def _span(item: Scheduled) -> Span:
    """The item's part of the forward with the drafts that its sequence has by now."""
    return replace(item.span, token_ids=item.sequence.ids(item.span.start, item.span.end))
