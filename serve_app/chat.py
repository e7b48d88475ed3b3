"""``/v1/chat/completions`` as data: OpenAI's conversation and request."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from actors.engine.errors import RequestError
from serve_app.sampling_fields import Count, SamplingFields

Role = Literal["system", "developer", "user", "assistant", "tool", "function"]


class TextPart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A piece of a message. There are no images, sounds or files here."""

    type: Literal["text"]
    text: str


class ChatMessage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What someone said.

    Attributes:
        role: who; ``developer`` is OpenAI's newer word for ``system``.
        content: a text, or its pieces, which a line break joins.
        reasoning, reasoning_content: what the assistant thought before it spoke, for templates that show it.
        refusal, annotations, audio: taken, as answers have them, and without effect.
        tool_calls, tool_call_id, function_call: refused, as are the roles ``tool`` and ``function``.
    """

    role: Role
    content: str | list[TextPart] | None = None
    name: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    annotations: list[Any] | None = None
    audio: dict[str, Any] | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    function_call: dict[str, Any] | None = None

    @property
    def text(self) -> str:
        """The content as one text."""
        if isinstance(self.content, list):
            return "\n".join(part.text for part in self.content)
        return self.content or ""

    def for_template(self) -> dict[str, str]:
        """The message as chat templates know it."""
        role = "system" if self.role == "developer" else self.role
        extras = {"name": self.name, "reasoning": self.reasoning, "reasoning_content": self.reasoning_content}
        given = {name: value for name, value in extras.items() if value is not None}
        return {"role": role, "content": self.text} | given


Messages = Annotated[list[ChatMessage], Meta(min_length=1)]


class Conversation(msgspec.Struct, frozen=True, kw_only=True):
    """Messages, and how the model's chat template writes them out.

    Attributes:
        add_generation_prompt: end with what opens the assistant's answer; None does so unless a message is continued.
        continue_final_message: let the model go on with the last message; excludes ``add_generation_prompt``.
        add_special_tokens: put around the text what the model expects around a prompt; templates do that themselves.
        variables: more names that the template knows.
    """

    messages: Sequence[ChatMessage]
    add_generation_prompt: bool | None
    continue_final_message: bool
    add_special_tokens: bool
    variables: Mapping[str, Any]

    def check(self) -> None:
        """Raises RequestError where a message is not one that can be served, or options contradict one another."""
        for index, message in enumerate(self.messages):
            if message.role in ("tool", "function") or message.tool_calls or message.function_call:
                raise _no_tools(f"messages[{index}]")
            if message.content is None and message.role != "assistant":
                raise RequestError(f"messages[{index}].content: needed, but it is null", field="messages")
        if self.continue_final_message and self.add_generation_prompt:
            raise RequestError(
                "continue_final_message: excludes add_generation_prompt, which begins a new message",
                field="continue_final_message",
            )


class ChatCompletionRequest(SamplingFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """OpenAI's fields, then the ones that other servers of open models share, then Slipstream's.

    Attributes:
        messages: the conversation so far.
        max_tokens, max_completion_tokens: what the context leaves by default; the latter is the newer word.
        logprobs: whether log-probabilities of the tokens are wanted; ``top_logprobs``: with how many alternatives.
        reasoning_effort: handed to the chat template.
        tools, functions: refused unless ``tool_choice`` is "none"; ``response_format`` gives JSON by a schema.
        modalities: text only.
        parallel_tool_calls, verbosity: taken and without effect.
        add_generation_prompt: end with what opens the assistant's answer; so it is unless a message is continued.
        continue_final_message: let the model go on with the last message.
        add_special_tokens: put around the text what the model expects around a prompt; templates do that themselves.
        chat_template_kwargs: more variables of the chat template.
    """

    messages: Messages
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0)] | None = None
    reasoning_effort: str | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    functions: list[dict[str, Any]] | None = None
    function_call: str | dict[str, Any] | None = None
    modalities: list[str] | None = None
    parallel_tool_calls: bool | None = None
    verbosity: str | None = None

    add_generation_prompt: bool | None = None
    continue_final_message: bool = False
    add_special_tokens: bool = False
    chat_template_kwargs: dict[str, Any] | None = None

    @property
    def conversation(self) -> Conversation:
        """The messages, and how to write them out."""
        effort = {} if self.reasoning_effort is None else {"reasoning_effort": self.reasoning_effort}
        return Conversation(
            messages=self.messages,
            add_generation_prompt=self.add_generation_prompt,
            continue_final_message=self.continue_final_message,
            add_special_tokens=self.add_special_tokens,
            variables={**(self.chat_template_kwargs or {}), **effort},
        )

    @property
    def num_new_tokens(self) -> int | None:
        """How many tokens there may be at most; None for what the context leaves."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def num_logprobs(self) -> int | None:
        """Alternatives for each new token; None where no log-probabilities are asked for."""
        return (self.top_logprobs or 0) if self.logprobs else None

    def check_fields(self) -> None:
        """Raises RequestError where a field is not served, or contradicts another."""
        super().check_fields()
        self.conversation.check()
        if self.top_logprobs is not None and not self.logprobs:
            raise RequestError("top_logprobs: only with logprobs", field="top_logprobs")
        if self.tools and self.tool_choice != "none":
            raise _no_tools("tools")
        if self.functions and self.function_call != "none":
            raise _no_tools("functions")
        if any(kind != "text" for kind in self.modalities or ()):
            raise RequestError("modalities: only text is written here", field="modalities", limit="text")


def _no_tools(field: str) -> RequestError:
    return RequestError(
        f"{field}: tool calls are not served; response_format with a JSON schema gives structured answers",
        field=field.partition("[")[0],
    )
