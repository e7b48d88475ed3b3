"""A small byte-level BPE vocabulary: every byte can be written, and common words are one token."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"

# A conversation as a novel prints it: each remark a paragraph in quotation marks. The user's remark is closed; the
# answer is opened and left to the model, which closes it when it likes. A model that knows only novels has seen this
# form on every page, which it could not be said of role markers. Prompt and answer are a prefix of the next prompt.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message.role == 'assistant' -%}{{ '\"' + message.content | trim + '\\n\\n' }}"
    "{%- elif message.role == 'user' -%}{{ '\"' + message.content | trim + '\"\\n\\n' }}"
    "{%- else -%}{{ message.content | trim + '\\n\\n' }}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '\"' }}{%- endif -%}"
)


def train_tokenizer(texts: Iterable[str], vocab_size: int = 2048, context: int = 1024) -> PreTrainedTokenizerFast:
    """Learn merges from texts.

    Args:
        texts: The training text, in pieces of any length.
        vocab_size: Entries in all: the end-of-text token, 256 bytes, and merges. At least 257.
        context: Tokens that the model can attend to, for the tokenizer's ``model_max_length``.
    """
    if vocab_size < 257:
        raise ValueError(f"vocab_size is {vocab_size}; 256 bytes and the end of text need 257")
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        model_max_length=context,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
