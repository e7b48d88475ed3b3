"""Whether a request is what kills its targets: told from how far it came on each before that died.

A target that dies takes all its requests down. Those that had emitted tokens there show that it could run them; those
that had not may be to blame. A *suspect* goes where no other suspect is, so that the next death speaks for itself.
Where workers die that it never met (see :mod:`actors.unrest`), it takes as many deaths more to convict it.
"""

from dataclasses import dataclass, field

MAX_NUM_SILENT_DEATHS = 2  # targets in a row that died before the request emitted anything there
MAX_NUM_EARLY_DEATHS = 5  # ... or before it had emitted EARLY_TOKENS: it may kill a little later each time
NUM_EARLY_DEATHS_OF_SUSPECT = 3
EARLY_TOKENS = 16


@dataclass
class Suspicion:
    """What speaks against one request.

    Attributes:
        num_tokens: emitted on its present target.
        num_silent_deaths: targets in a row that died before it emitted a token there.
        num_early_deaths: targets in a row that died before it emitted :data:`EARLY_TOKENS` there.
        deaths: numbers of all deaths that it was there for.
    """

    num_tokens: int = 0
    num_silent_deaths: int = 0
    num_early_deaths: int = 0
    deaths: set[int] = field(default_factory=set)

    @property
    def is_suspect(self) -> bool:
        """Whether it has to be tried apart from other suspects."""
        return self.num_silent_deaths > 0 or self.num_early_deaths >= NUM_EARLY_DEATHS_OF_SUSPECT

    def is_convicted(self, lenience: int = 0) -> bool:
        """Whether it has killed too often to be tried again; ``lenience``: deaths that speak for it."""
        is_silent = self.num_silent_deaths >= MAX_NUM_SILENT_DEATHS + lenience
        return is_silent or self.num_early_deaths >= MAX_NUM_EARLY_DEATHS + lenience

    @property
    def num_deaths(self) -> int:
        """Deaths in a row that it may have caused."""
        return max(self.num_silent_deaths, self.num_early_deaths)

    def placed(self) -> None:
        """Note that it was given to a target."""
        self.num_tokens = 0

    def emitted(self, num_tokens: int) -> None:
        """Note tokens, which clear it: one of having killed in silence, many of all."""
        self.num_tokens += num_tokens
        if self.num_tokens:
            self.num_silent_deaths = 0
        if self.num_tokens >= EARLY_TOKENS:
            self.num_early_deaths = 0

    def died(self, *, is_proven: bool) -> None:
        """Note that its target died and that it may be to blame; ``is_proven``: that one of those on it was."""
        self.num_silent_deaths += is_proven or self.num_tokens == 0
        self.num_early_deaths += self.num_tokens < EARLY_TOKENS
