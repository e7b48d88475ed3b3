"""``/v1/completions`` as data: OpenAI's request and answer."""

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from actors.engine.errors import RequestError
from actors.engine.params import MAX_INT
from serve_app.choices import DraftInfo, FinishWord
from serve_app.sampling_fields import Count, SamplingFields
from serve_app.token_logprobs import CompletionLogprobs, PromptLogprobs
from serve_app.usage import Usage

DEFAULT_MAX_TOKENS = 16


class CompletionRequest(SamplingFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """OpenAI's fields, then the ones that other servers of open models share, then Slipstream's.

    Attributes:
        prompt: a text, a list of texts, token ids, or a list of lists of token ids.
        max_tokens: 16 by default; 0 only with echo, to read the prompt's log-probabilities.
        best_of: run so many and answer with the ``n`` that are most probable by token; not with stream.
        suffix: refused: nothing is written into a gap here.
        echo: put the prompt before the text, and its tokens into ``logprobs``.
        logprobs: log-probabilities of the tokens, with that many alternatives each.
        add_special_tokens: put around a text what the model expects around a prompt.
    """

    prompt: str | list[str | int | list[int]]
    max_tokens: Annotated[int, Meta(ge=0, le=MAX_INT)] | None = None
    best_of: Count | None = None
    suffix: str | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Meta(ge=0)] | None = None
    add_special_tokens: bool = True

    @property
    def num_new_tokens(self) -> int:
        """``max_tokens``, 16 by default."""
        return DEFAULT_MAX_TOKENS if self.max_tokens is None else self.max_tokens

    @property
    def num_runs(self) -> int:
        """Sequences to run behind each prompt."""
        return self.best_of or self.num_choices

    @property
    def num_prompt_logprobs(self) -> int | None:
        """Alternatives for each token of the prompt; None where nothing of the kind is asked for."""
        asked = [self.prompt_logprobs, self.logprobs if self.echo else None]
        return max((count for count in asked if count is not None), default=None)

    @property
    def num_logprobs(self) -> int | None:
        """Alternatives for each new token; choosing the best needs the tokens' own log-probabilities."""
        return 0 if self.logprobs is None and self.num_runs > self.num_choices else self.logprobs

    def check_fields(self) -> None:
        """Raises RequestError where a field is not served, or contradicts another."""
        super().check_fields()
        if self.suffix:
            raise RequestError("suffix: not served; the text goes on behind the prompt only", field="suffix")
        if self.max_tokens == 0 and not self.echo:
            raise RequestError("max_tokens: at least 1, or 0 with echo, but it is 0", field="max_tokens", limit="1")
        if self.num_runs < self.num_choices:
            raise RequestError(
                f"best_of: at least n ({self.num_choices}), but it is {self.best_of}",
                field="best_of",
                limit=str(self.num_choices),
            )
        if self.num_runs > self.num_choices and self.stream:
            raise RequestError("best_of: the best are known only at the end, so not with stream", field="best_of")


class CompletionChoice(msgspec.Struct, frozen=True, kw_only=True):
    """One answer, or what one step added to it. ``token_ids`` and ``slipstream`` come where asked for."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: FinishWord | None = None
    token_ids: tuple[int, ...] | UnsetType = UNSET
    prompt_logprobs: PromptLogprobs | UnsetType = UNSET
    slipstream: DraftInfo | UnsetType = UNSET


class CompletionResponse(msgspec.Struct, frozen=True, kw_only=True):
    """A whole answer, or one chunk of a streamed one. ``created`` is in seconds since 1970."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | UnsetType | None = UNSET
