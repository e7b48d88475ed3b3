"""A model's tokenizer: where it comes from, its chat template, and whether its ids fit the model."""

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from actors.engine.catalog import Checkpoint, find_checkpoint
from actors.engine.chat_template import read_chat_template
from actors.engine.config import ModelConfig
from actors.engine.errors import ConfigError, ModelNotFoundError, VocabularyError

_FILES = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt", "spiece.model",
    "sentencepiece.bpe.model", "tekken.json",
)  # fmt: skip


def load_tokenizer(config: ModelConfig, checkpoint: Checkpoint | None = None) -> PreTrainedTokenizerBase | None:
    """Load the tokenizer that a model configuration names, or the model's own.

    Args:
        config: names the model, and may name a tokenizer and a chat template.
        checkpoint: the model's, where it has been found already.

    Returns:
        The tokenizer, or None where none is named and the model has none.

    Raises:
        ModelNotFoundError: the tokenizer that is named, or the model, is not there.
        ConfigError: it cannot be loaded without running code of its own, or the chat template is not there.
    """
    if config.tokenizer is not None:
        checkpoint = find_checkpoint(config.tokenizer)
    elif checkpoint is None:
        checkpoint = find_checkpoint(config.model, config.revision)
    folder = checkpoint.folder
    if not any((folder / name).is_file() for name in _FILES):
        if config.tokenizer is None:
            return None
        raise ModelNotFoundError(f"tokenizer {config.tokenizer!r}: there are no tokenizer files in {folder}")
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ConfigError(f"the tokenizer in {folder} cannot be loaded: {error}") from error
    if config.chat_template is not None:
        tokenizer.chat_template = read_chat_template(config.chat_template)
    return tokenizer


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, num_embeddings: int) -> None:
    """Check that the model knows every id of the tokenizer; ids that only the model knows are padding.

    Args:
        tokenizer: added tokens included.
        num_embeddings: rows of the model's embedding table.

    Raises:
        VocabularyError: an id is beyond the table.
    """
    token, largest = max(tokenizer.get_vocab().items(), key=lambda item: item[1], default=("", -1))
    if largest >= num_embeddings:
        raise VocabularyError(
            f"the tokenizer goes up to id {largest} ({token!r}), but the model knows ids 0 to {num_embeddings - 1}; "
            "this is another model's tokenizer, or tokens were added that the model has no embeddings for"
        )
