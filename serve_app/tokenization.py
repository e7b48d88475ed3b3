"""``/tokenize`` and ``/detokenize`` as data, in vLLM's shapes."""

from typing import Any

import msgspec

from actors.engine.errors import RequestError
from serve_app.chat import Conversation, Messages


class TokenizeRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A text, or a conversation as the chat template writes it out; one of them.

    Attributes:
        add_special_tokens: put around the text what the model expects around a prompt; by default so for a prompt, not
            for a conversation, whose template does that.
        return_token_strs: add the tokens as the vocabulary spells them.
        add_generation_prompt, continue_final_message, chat_template_kwargs: as in ``/v1/chat/completions``.
    """

    prompt: str | None = None
    messages: Messages | None = None
    model: str | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool = False
    chat_template_kwargs: dict[str, Any] | None = None

    def read(self) -> str | Conversation:
        """What to tokenize. Raises RequestError unless there is one thing, and it can be served."""
        if self.messages is None and self.prompt is not None:
            return self.prompt
        if self.messages is None or self.prompt is not None:
            raise RequestError("prompt: give either prompt or messages, one of them", field="prompt")
        conversation = Conversation(
            messages=self.messages,
            add_generation_prompt=self.add_generation_prompt,
            continue_final_message=self.continue_final_message,
            add_special_tokens=bool(self.add_special_tokens),
            variables=self.chat_template_kwargs or {},
        )
        conversation.check()
        return conversation


class TokenizeResponse(msgspec.Struct, frozen=True, kw_only=True):
    """Ids, and how many of them the model takes."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class DetokenizeRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ids of the vocabulary."""

    tokens: list[int]
    model: str | None = None


class DetokenizeResponse(msgspec.Struct, frozen=True, kw_only=True):
    """Their text, special tokens included."""

    prompt: str
