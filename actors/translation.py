"""Between the token ids of a target and those of a draft with another tokenizer, over the bytes that both stand for.

::

    target ids   | The| qu|ick| bro|wn| f            confirmed, one id after the other
    bytes        | The quick brown f
    draft ids    | The| quick| brown| f               as the draft's own tokenizer writes the same text
    drafted                             |ox| jum|ped
    proposed                            |ox| jumped   as the target's tokenizer writes that behind its own ids

What was confirmed is never encoded again as a whole, only from the last words on: what follows a word rarely changes
how the words before it are split. Where it does, proposals are worse, and nothing else: they are only ever proposals
(DESIGN, rule 2).

Universal assisted decoding (transformers; Timor et al., "Accelerating LLM Inference with Lossless Speculative Decoding
Algorithms for Heterogeneous Vocabularies", 2025) has the same purpose.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate

from actors.vocabulary import Vocabulary

MAX_WORD_TOKENS = 24  # behind which a border is taken although no word begins there
MAX_RATIO = 4.0


class Translation:
    """Two vocabularies, and what is known of the pair.

    Args:
        target: the ids that are confirmed and proposed.
        draft: the ids that the draft computes with.
        special_tokens: the target's special tokens by the draft's that mean the same (as ``<s>`` does), beside those
            that are spelt alike.
        draft_prefix: ids that the draft's model expects at the beginning of every text.
        num_target_ids, num_draft_ids: widths of the two models' logits.
    """

    def __init__(
        self,
        target: Vocabulary,
        draft: Vocabulary,
        special_tokens: Mapping[int, int] | None = None,
        *,
        draft_prefix: Sequence[int] = (),
        num_target_ids: int = 0,
        num_draft_ids: int = 0,
    ) -> None:
        self.target = target
        self.draft = draft
        self.draft_prefix = tuple(draft_prefix)
        self._num_target_ids = max(num_target_ids, 1 + max(target.pieces, default=0))
        self._num_draft_ids = max(num_draft_ids, 1 + max(draft.pieces, default=0))
        alike = {draft.ids[text]: token_id for token_id, text in target.special_ids.items() if text in draft.ids}
        self.special_to_target = {**alike, **(special_tokens or {})}
        self._special_to_draft = {target_id: draft_id for draft_id, target_id in self.special_to_target.items()}

    @property
    def num_target_ids(self) -> int:
        """Ids of the target."""
        return self._num_target_ids

    def piece(self, target_id: int) -> bytes:
        """What a confirmed id is to the draft: its bytes, or the spelling of the draft's own special token."""
        if target_id in self._special_to_draft:
            return self.draft.pieces[self._special_to_draft[target_id]]
        return self.target.pieces.get(target_id, b"")

    def to_draft(self, target_ids: Sequence[int]) -> list[int]:
        """The draft's ids for single ids of the target; those that it has no one id for are left out."""
        found = (self._special_to_draft.get(i, self.draft.by_bytes.get(self.piece(i))) for i in target_ids)
        return [draft_id for draft_id in found if draft_id is not None]

    def noise_ids(self) -> list[int]:
        """For each id of the draft, whose noise it draws with: the target's id for the same, or one of its own."""
        found = []
        next_id = self._num_target_ids
        for draft_id in range(self._num_draft_ids):
            shared = self.special_to_target.get(draft_id)
            if shared is None and draft_id not in self.draft.special_ids and draft_id in self.draft.pieces:
                shared = self.target.by_bytes.get(self.draft.pieces[draft_id])
            found.append(next_id if shared is None else shared)
            next_id += shared is None
        return found


class TranslatedText:
    """The confirmed ids of one sequence, in both vocabularies.

    Attributes:
        target_ids, draft_ids: the same text; the draft's lack a character at the end that is not whole yet.
    """

    def __init__(self, translation: Translation) -> None:
        self._translation = translation
        self._bytes = bytearray()
        self._target_ends: list[int] = []
        self._draft_ends: list[int] = []
        self.target_ids: list[int] = []
        self.draft_ids: list[int] = []

    @property
    def ratio(self) -> float:
        """Ids of the draft for one of the target, from 1 up to a bound."""
        return min(MAX_RATIO, max(1.0, len(self.draft_ids) / max(1, len(self.target_ids))))

    @property
    def shift(self) -> int:
        """How much further the target has counted at the end of the text than the draft."""
        return len(self.target_ids) - len(self.draft_ids)

    def confirm(self, start: int, target_ids: Sequence[int]) -> int:
        """Correct the text to ``[:start] + target_ids``; returns how many of the draft's ids have stayed.

        Raises:
            KeyError: ``start`` lies beyond what is known.
            ValueError: the draft's tokenizer cannot write the text.
        """
        if start > len(self.target_ids):
            raise KeyError(start)
        if list(target_ids) == self.target_ids[start:]:
            return len(self.draft_ids)
        del self.target_ids[start:], self._target_ends[start:]
        border = self._target_ends[-1] if self._target_ends else 0
        del self._bytes[border:]
        for target_id in target_ids:
            self._bytes += self._translation.piece(target_id)
            self._target_ends.append(len(self._bytes))
        self.target_ids += target_ids
        return self._write(border)

    def propose(self, drafted: Sequence[int]) -> list[int]:
        """What the draft wrote behind its ids, in ids of the target behind its own."""
        translation = self._translation
        ends = (n for n, i in enumerate(drafted) if i in translation.draft.special_ids)
        num_plain = next(ends, len(drafted))
        known = self._draft_ends[-1] if self._draft_ends else 0
        tail = bytes(self._bytes[known:])
        written = translation.draft.spell(drafted[:num_plain])
        if not written.startswith(tail):
            return []
        start = _word_start(self._bytes, self._target_ends, len(self.target_ids))
        begin = _begin(self._target_ends, _word_start(self._bytes, self._target_ends, start))
        before = bytes(self._bytes[begin:known]).decode(errors="replace")
        proposed = _behind(translation.target, before, whole(written).decode(errors="replace"), len(tail))
        if num_plain < len(drafted) and drafted[num_plain] in translation.special_to_target:
            proposed.append(translation.special_to_target[drafted[num_plain]])
        return proposed

    def _write(self, border: int) -> int:
        """Bring the draft's ids up to the text, of which all before ``border`` is as it was."""
        draft = self._translation.draft
        num_kept = len(self._draft_ends)
        while num_kept and self._draft_ends[num_kept - 1] > border:
            num_kept -= 1
        num_kept = _word_start(self._bytes, self._draft_ends, num_kept)
        start = _begin(self._draft_ends, num_kept)
        text = whole(bytes(self._bytes[start:])).decode(errors="replace")
        begin = _begin(self._draft_ends, _word_start(self._bytes, self._draft_ends, num_kept))
        before = bytes(self._bytes[begin:start]).decode(errors="replace")
        ids = draft.encode_within(before, text) if start else draft.encode(text)
        spelt = draft.spell(ids)
        extra = len(spelt) - len(text.encode())
        if extra not in ((0,) if start else (0, 1)) or spelt[extra:] != text.encode():
            raise ValueError("the draft's tokenizer does not keep the text as it is")
        old = self.draft_ids[num_kept:]
        num_same = next((n for n, (a, b) in enumerate(zip(old, ids, strict=False)) if a != b), min(len(old), len(ids)))
        self.draft_ids[num_kept:] = ids
        lengths = [len(draft.pieces.get(draft_id, b"")) for draft_id in ids]
        self._draft_ends[num_kept:] = [start - extra + end for end in accumulate(lengths)]
        return num_kept + num_same


def whole(text: bytes) -> bytes:
    """The text without a character at its end that is not whole."""
    for size in range(1, min(4, len(text)) + 1):
        byte = text[-size]
        if byte & 0xC0 != 0x80:  # the first of a character
            width = 1 if byte < 0x80 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return text if width <= size else text[:-size]
    return text


def _begin(ends: Sequence[int], index: int) -> int:
    """Where the token of an index begins."""
    return ends[index - 1] if index else 0


def _word_start(text: bytes | bytearray, ends: Sequence[int], index: int) -> int:
    """Index of the last token before ``index`` with which a word begins, or that lies far enough back."""
    for back in range(1, min(index, MAX_WORD_TOKENS) + 1):
        start = ends[index - back - 1] if index > back else 0
        if start == 0 or text[start : start + 1].isspace():
            return index - back
    return max(0, index - MAX_WORD_TOKENS)


def _behind(vocabulary: Vocabulary, before: str, text: str, num_known: int) -> list[int]:
    """Ids of a text behind another, without its first ``num_known`` bytes; none where a token crosses that border."""
    ids = vocabulary.encode_within(before, text)
    border = 0
    for index, token_id in enumerate(ids):
        if border >= num_known:
            return ids[index:] if border == num_known else []
        border += len(vocabulary.pieces.get(token_id, b""))
    return []
