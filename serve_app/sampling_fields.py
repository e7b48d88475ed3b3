"""What the requests of OpenAI's API share: OpenAI's fields, those that other servers of open models add, and ours."""

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from actors.engine.errors import RequestError
from actors.engine.params import MAX_INT, MAX_STOP_STRINGS, TokenId
from serve_app.response_format import ResponseFormat, StructuredOutputs, Text, read_grammar
from serve_app.text import TextRules

Count = Annotated[int, Meta(ge=1, le=MAX_INT)]
Penalty = Annotated[float, Meta(ge=-2.0, le=2.0)]
StopString = Annotated[str, Meta(min_length=1)]
Bias = Annotated[float, Meta(ge=-100.0, le=100.0)]
MAX_NUM_BIASES = 1024
MAX_NUM_STOP_TOKENS = 1024


class StreamOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of a stream: ``include_usage`` adds a chunk with the counts, ``continuous_usage_stats`` puts them in each one."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    continuous_usage_stats: bool | None = None


class SamplingFields(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to answer.

    Attributes:
        model: the served model's name; it may be left out.
        n: answers to each prompt, 1 by default.
        temperature: 1 by default (or the model's own default); 0 is greedy.
        top_p: keep the most probable tokens that come to so much probability together.
        presence_penalty, frequency_penalty: taken off a token's logit once it was written, and each time it was.
        logit_bias: added to tokens' logits, by id.
        seed: the same seed gives the same answer; one is drawn by default.
        stop: the text ends before the first of these.
        stream: answer as server-sent events; stream_options says more.
        user, metadata, store, service_tier, safety_identifier, prompt_cache_key: taken and without effect.
        response_format: a grammar that the answer follows; so does structured_outputs, in vLLM's words, and so do its
            older names guided_json, guided_regex, guided_choice and guided_grammar.
        top_k: keep so many of the most probable tokens; 0 and -1 keep all.
        min_p: keep tokens that are at least so probable in proportion to the most probable one.
        repetition_penalty: divides the logits of tokens that have occurred, in the prompt too.
        min_tokens: no end before so many.
        ignore_eos: go on behind the model's end-of-text token.
        stop_token_ids: more tokens that end the text.
        include_stop_str_in_output: leave in the text what ended it.
        skip_special_tokens: leave special tokens out of the text.
        truncate_prompt_tokens: keep only so many of the prompt's last tokens; -1 is as many as the model takes.
        prompt_logprobs: log-probabilities of the prompt's tokens, with that many alternatives each.
        return_token_ids: add ids, origins and draft counts to each choice, and at its end what drafting did for it.
        return_tokens_as_token_ids: name tokens in log-probabilities by their ids.
        num_assistant_tokens: pins the draft length; 0 turns drafting off. Never changes the text.
    """

    model: str | None = None
    n: Count | None = None
    temperature: Annotated[float, Meta(ge=0.0)] | None = None
    top_p: Annotated[float, Meta(gt=0.0, le=1.0)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: Annotated[dict[int, Bias], Meta(max_length=MAX_NUM_BIASES)] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: StopString | Annotated[list[StopString], Meta(max_length=MAX_STOP_STRINGS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    top_k: Annotated[int, Meta(ge=-1, le=MAX_INT)] | None = None
    min_p: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None
    repetition_penalty: Annotated[float, Meta(gt=0.0)] | None = None
    min_tokens: Annotated[int, Meta(ge=0, le=MAX_INT)] | None = None
    ignore_eos: bool = False
    stop_token_ids: Annotated[list[TokenId], Meta(max_length=MAX_NUM_STOP_TOKENS)] | None = None
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    truncate_prompt_tokens: Annotated[int, Meta(ge=-1, le=MAX_INT)] | None = None
    prompt_logprobs: Annotated[int, Meta(ge=0)] | None = None
    return_token_ids: bool = False
    return_tokens_as_token_ids: bool = False
    structured_outputs: StructuredOutputs | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: Text | None = None
    guided_choice: Annotated[list[Text], Meta(min_length=1)] | None = None
    guided_grammar: Text | None = None
    guided_whitespace_pattern: str | None = None

    num_assistant_tokens: Annotated[int, Meta(ge=0, le=64)] | None = None

    @property
    def num_choices(self) -> int:
        """``n``, 1 by default."""
        return self.n or 1

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the counts."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def text_rules(self) -> TextRules:
        """How tokens become text."""
        return TextRules(
            stop_strings=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            include_stop=self.include_stop_str_in_output,
            skip_special_tokens=self.skip_special_tokens,
        )

    @property
    def grammar_field(self) -> str:
        """The field that a grammar came in, if there is one."""
        if self.structured_outputs is not None:
            return "structured_outputs"
        guided = ("guided_json", "guided_regex", "guided_choice", "guided_grammar")
        return next((name for name in guided if getattr(self, name) is not None), "response_format")

    @property
    def _guided(self) -> StructuredOutputs | None:
        """The older names as ``structured_outputs``."""
        if self.grammar_field in ("structured_outputs", "response_format"):
            return None
        return StructuredOutputs(
            json=self.guided_json,
            regex=self.guided_regex,
            choice=self.guided_choice,
            grammar=self.guided_grammar,
            whitespace_pattern=self.guided_whitespace_pattern,
        )

    def check_fields(self) -> None:
        """Raises RequestError where fields contradict one another."""
        if self.stream_options is not None and not self.stream:
            raise RequestError("stream_options: only with stream", field="stream_options")
        if self.prompt_logprobs is not None and self.stream:
            raise RequestError("prompt_logprobs: not with stream", field="prompt_logprobs")
        if self.truncate_prompt_tokens == 0:
            raise RequestError(
                "truncate_prompt_tokens: at least 1, or -1 for as many as the model takes, but it is 0",
                field="truncate_prompt_tokens",
                limit="1",
            )

    def sampling_overrides(self, defaults: Mapping[str, Any], max_new_tokens: int) -> dict[str, Any]:
        """The fields under GenerationConfig's names, to lie over the model's ``defaults``; seed and logprobs apart.

        Raises RequestError naming the field.
        """
        if self.min_tokens is not None and self.min_tokens > max_new_tokens:
            raise RequestError(
                f"min_tokens: {self.min_tokens} are more than the {max_new_tokens} new tokens that there may be",
                field="min_tokens",
                limit=str(max_new_tokens),
            )
        top_k = 0 if self.top_k is None and defaults.get("top_k") is None else self.top_k
        given = {
            "temperature": self.temperature or None,
            "top_p": self.top_p,
            "top_k": 0 if top_k == -1 else top_k,
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "logit_bias": self.logit_bias or None,
            "min_new_tokens": self.min_tokens,
            "num_assistant_tokens": self.num_assistant_tokens,
            "grammar": read_grammar(self.response_format, self.structured_outputs or self._guided),
        }
        return {name: value for name, value in given.items() if value is not None} | {
            "max_new_tokens": max_new_tokens,
            "do_sample": self.temperature != 0.0,
            "stop_strings": self.text_rules.stop_strings,
            **self._ends(defaults.get("eos_token_id")),
        }

    def _ends(self, eos_token_id: int | list[int] | None) -> dict[str, Any]:
        """Which tokens end the text."""
        if not self.stop_token_ids:
            return {"ignore_eos": self.ignore_eos}
        own = [] if self.ignore_eos or eos_token_id is None else eos_token_id
        own = [own] if isinstance(own, int) else own
        return {"eos_token_id": tuple(dict.fromkeys([*own, *self.stop_token_ids])), "ignore_eos": False}
