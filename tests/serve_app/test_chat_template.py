"""Conversations as text: what transformers would write, in a sandbox."""

from typing import Any

import pytest
from transformers import AutoTokenizer

from actors.engine.config import ModelConfig
from actors.engine.errors import ConfigError, RequestError
from cluster.demo import TARGET_PATH
from serve_app.chat_template import ChatTemplate
from serve_app.served_model import load_chat_template

TALK = [
    {"role": "system", "content": "Be brief. "},
    {"role": "user", "content": "Who is <there>?"},
    {"role": "assistant", "content": " It is \n"},
]
TEMPLATES = {
    "chatml": (
        "{{ bos_token }}{%- for message in messages %}\n"
        "    {%- if loop.index > 9 %}{% break %}{% endif %}\n"
        "    {{- '<|im_start|>' + message.role + '\\n' }}"
        "{% generation %}{{ message['content'] | trim }}{% endgeneration %}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "json": "{% for m in messages %}{{ m | tojson(indent=1) }}{% endfor %}{{ strftime_now('%Y')[:1] }}",
    "thinking": "{% if enable_thinking is defined and not enable_thinking %}no{% endif %}{{ messages[0].content }}",
}


def demo() -> ChatTemplate:
    template = load_chat_template(ModelConfig(model="demo"))
    assert template is not None
    return template


def theirs(template: str | None, **kwargs: Any) -> str:
    tokenizer = AutoTokenizer.from_pretrained(TARGET_PATH)
    return str(tokenizer.apply_chat_template(TALK, chat_template=template, tokenize=False, **kwargs))


@pytest.mark.parametrize("add", [True, False])
@pytest.mark.parametrize("name", TEMPLATES)
def test_it_reads_as_with_transformers(name: str, add: bool) -> None:
    ours = ChatTemplate(TEMPLATES[name], {"bos_token": "<|endoftext|>"})
    rendered = ours.render(TALK, add_generation_prompt=add, variables={"enable_thinking": False})
    assert rendered == theirs(TEMPLATES[name], add_generation_prompt=add, enable_thinking=False)


def test_the_demo_has_one() -> None:
    assert demo().render(TALK) == theirs(None, add_generation_prompt=True)


def test_a_message_is_continued() -> None:
    talk = [*TALK[:-1], {"role": "assistant", "content": "It is"}]
    text = demo().render(talk, add_generation_prompt=False, continue_final_message=True)
    assert text == 'Be brief.\n\n"Who is <there>?"\n\n"It is'
    with pytest.raises(RequestError, match="continue_final_message"):
        ChatTemplate("{{ messages[0].content }}", {}).render(
            talk, add_generation_prompt=False, continue_final_message=True
        )
    assert talk[-1]["content"] == "It is"


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ raise_exception('no system role') }}", "no system role"),
        ("{{ messages[0].content.nothing.nothing }}", "nothing"),
        ("{{ messages.append(1) }}", "append"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
        ("{% for i in range(10**9) %}{% endfor %}", "range"),
    ],
)
def test_what_a_template_refuses_or_must_not_do(template: str, words: str) -> None:
    with pytest.raises(RequestError, match=words) as caught:
        ChatTemplate(template, {}).render(TALK)
    assert caught.value.field == "messages"


def test_a_broken_template_is_found_at_the_start() -> None:
    with pytest.raises(ConfigError, match="chat_template"):
        ChatTemplate("{% if %}", {})
