"""Prompt lookup: what followed the newest tokens where they stood before is proposed again.

Candidates are those of transformers' ``PromptLookupCandidateGenerator``: of the longest run of newest tokens, up to
``max_matching_ngram_size``, that stands earlier in the sequence, the first place is taken, and what follows there. That
class looks through the whole sequence at each step; here an index grows with it.
"""

from collections.abc import Sequence

NO_STATE = -1


class NgramIndex:
    """Where the newest tokens of a growing sequence stood first.

    A suffix automaton (Blumer et al. 1985): its states are sets of substrings that end at the same places, at most two
    a token, whatever the size of the runs that are looked for. A token takes constant time on average.

    Attributes:
        match: position behind the first earlier place of the longest known run of newest tokens; None without one.
    """

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        self._next: list[dict[int, int]] = [{}]  # by state: token to state
        self._links = [NO_STATE]  # to the state of the longest suffix that ends at more places
        self._lengths = [0]  # of a state's longest substring
        self._ends = [0]  # position behind the first place of a state's substrings
        self._last = 0  # state of all tokens
        self._state, self._size = 0, 0  # of the newest tokens as far as they stood before, and how many these are

    @property
    def match(self) -> int | None:
        """See the class."""
        return self._ends[self._state] if self._size else None

    def add(self, token: int) -> None:
        """Append a token."""
        state, size = self._state, self._size
        while state and token not in self._next[state]:
            state = self._links[state]
            size = self._lengths[state]
        state, size = (self._next[state][token], size + 1) if token in self._next[state] else (0, 0)
        self._extend(token)
        size = min(size, self._max_size)
        while state and self._lengths[self._links[state]] >= size:
            state = self._links[state]
        self._state, self._size = state, size

    def _extend(self, token: int) -> None:
        new = self._new_state({}, self._lengths[self._last] + 1, self._lengths[self._last] + 1)
        state, self._last = self._last, new
        while state != NO_STATE and token not in self._next[state]:
            self._next[state][token] = new
            state = self._links[state]
        if state == NO_STATE:
            self._links[new] = 0
            return
        found = self._next[state][token]
        if self._lengths[found] > self._lengths[state] + 1:
            # Some of its substrings end here too, the longer ones do not: they part.
            whole, found = found, self._new_state(dict(self._next[found]), self._lengths[state] + 1, self._ends[found])
            self._links[found] = self._links[whole]
            self._links[whole] = found
            while state != NO_STATE and self._next[state].get(token) == whole:
                self._next[state][token] = found
                state = self._links[state]
        self._links[new] = found

    def _new_state(self, following: dict[int, int], length: int, end: int) -> int:
        self._next.append(following)
        self._links.append(0)
        self._lengths.append(length)
        self._ends.append(end)
        return len(self._next) - 1


class PromptLookup:
    """Fulfils :class:`actors.drafter.Drafter` for one sequence.

    Args:
        num_tokens: ids to propose at the most.
        max_ngram_size: newest tokens to look for at the most.
    """

    def __init__(self, num_tokens: int, max_ngram_size: int) -> None:
        self._num_tokens = num_tokens
        self._index = NgramIndex(max_ngram_size)
        self._num_known = 0

    def propose(self, token_ids: Sequence[int]) -> Sequence[int]:
        """See :class:`actors.drafter.Drafter`. Only what is new is read."""
        for position in range(self._num_known, len(token_ids)):
            self._index.add(token_ids[position])
        self._num_known = len(token_ids)
        start = self._index.match
        return () if start is None else token_ids[start : start + self._num_tokens]
