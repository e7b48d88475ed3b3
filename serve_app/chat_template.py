"""A conversation as the text that the model knows it by: the model's own Jinja template, in a sandbox.

The names and filters that a template may use are those of transformers.
"""

import json
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from actors.engine.errors import ConfigError, RequestError

Message = Mapping[str, Any]


class ChatTemplate:
    """A compiled template.

    Args:
        source: of the template.
        special_tokens: the tokenizer's, by name (``bos_token``, ...).

    Raises:
        ConfigError: the template is not valid.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
        )
        environment.filters["tojson"] = _to_json
        environment.globals |= {"raise_exception": _refuse, "strftime_now": _now}
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise ConfigError(f"chat_template: not a valid Jinja template: {error}") from error
        self._special_tokens = dict(special_tokens)

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """Write out a conversation.

        Args:
            messages: each with ``role`` and ``content``.
            add_generation_prompt: end with what opens the model's answer.
            continue_final_message: end inside the last message, so that the model goes on with it.
            variables: more of what the template understands.

        Raises:
            RequestError: the template refuses the conversation, or shows nothing of the message to be continued.
        """
        talk = [dict(message) for message in messages]
        end = ""
        if continue_final_message:
            end = f"<{uuid.uuid4().hex}>"
            talk[-1]["content"] += end
        names = {**(variables or {}), **self._special_tokens, "add_generation_prompt": add_generation_prompt}
        try:
            text = self._template.render({**names, "messages": talk})
        except RecursionError:
            raise RequestError("messages: nested too deeply", field="messages") from None
        except Exception as error:  # a template can fail in any way on what it did not expect
            raise RequestError(f"messages: the chat template refuses them: {error}", field="messages") from error
        if not continue_final_message:
            return text
        if end not in text:
            raise RequestError(
                "continue_final_message: the chat template shows nothing of the last message",
                field="continue_final_message",
            )
        return text[: text.rindex(end)]


class _Generation(Extension):
    """``{% generation %}`` marks what the model wrote, which matters in training only."""

    tags = {"generation"}  # noqa: RUF012  # as Extension has it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """See :meth:`jinja2.ext.Extension.parse`."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Unlike Jinja's own filter, for a model and not for a web page: nothing is escaped."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)


def _now(format: str) -> str:
    return datetime.now().strftime(format)
