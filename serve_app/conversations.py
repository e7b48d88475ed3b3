"""From a conversation to a prompt: the chat template, the tokenizer, the bounds."""

import asyncio
from typing import Any

from actors.engine.errors import RequestError
from serve_app.chat import Conversation
from serve_app.cluster_view import ModelCard
from serve_app.gateway import MAX_NUM_INLINE_CHARS, Gateway, check_prompt
from serve_app.prompts import Prompt, keep_last


async def write_out(gateway: Gateway, talk: Conversation) -> str:
    """The text of a conversation; a long one is written beside the event loop.

    Raises RequestError where the model has no chat template, or its template refuses the conversation.
    """
    template = gateway.chat_template
    if template is None:
        raise RequestError(
            f"messages: the model {gateway.name!r} has no chat template; use /v1/completions", field="messages"
        )
    messages = [message.for_template() for message in talk.messages]
    is_new = not talk.continue_final_message
    options: dict[str, Any] = {
        "add_generation_prompt": is_new if talk.add_generation_prompt is None else talk.add_generation_prompt,
        "continue_final_message": talk.continue_final_message,
        "variables": talk.variables,
    }
    if sum(len(message["content"]) for message in messages) + len(messages) <= MAX_NUM_INLINE_CHARS:
        return template.render(messages, **options)
    return await asyncio.to_thread(template.render, messages, **options)


async def read_conversation(
    gateway: Gateway, card: ModelCard, talk: Conversation, *, num_kept: int | None = None
) -> Prompt:
    """The prompt that a conversation makes. Raises RequestError, ApiError: see :func:`write_out`; too long."""
    text = await write_out(gateway, talk)
    token_ids = await gateway.encode(text, add_special_tokens=talk.add_special_tokens)
    prompt = keep_last(Prompt(token_ids=tuple(token_ids), text=text), num_kept, card)
    check_prompt(prompt.token_ids, card, "messages")
    return prompt
