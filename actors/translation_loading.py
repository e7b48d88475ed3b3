"""Finds out whether a draft and its target share their token ids, and what translates between them if not."""

import logging
from typing import TYPE_CHECKING, Any

from actors.config import WorkerConfig
from actors.engine.catalog import find_checkpoint
from actors.engine.errors import ModelNotFoundError, VocabularyError
from actors.translation import Translation
from actors.vocabulary import Vocabulary, agree

if TYPE_CHECKING:
    from actors.engine.config import ModelConfig

logger = logging.getLogger(__name__)

ROLES = ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "sep_token_id", "cls_token_id")


def load_translation(config: WorkerConfig, num_draft_ids: int) -> Translation | None:
    """Return what translates between a draft and the model that it assists; None where both have the same ids.

    They are taken to have where the other's files are not on this host.

    Raises:
        VocabularyError: the two differ, and one of the tokenizers is not there, or does not keep texts as they are.
        ConfigError: a tokenizer cannot be loaded.
    """
    if config.assists is None or config.simulation is not None or config.assists == config.model:
        return None
    # What they import, an actor without a translation has imported as well.
    from actors.engine.loading import read_model_config
    from actors.engine.tokenizer import load_tokenizer

    try:
        file = _file(config.assists)
    except ModelNotFoundError as error:
        logger.warning("%s: its token ids are taken for its target's: %s", config.model.model, error)
        return None
    if file is not None and file == _file(config.model):
        return None
    target, draft = load_tokenizer(config.assists), load_tokenizer(config.model)
    checkpoint = find_checkpoint(config.assists.model, config.assists.revision)
    num_target_ids = int(getattr(read_model_config(checkpoint).get_text_config(), "vocab_size", 0))
    if target is None or draft is None:
        if num_target_ids == num_draft_ids:
            return None
        missing = config.assists.model if target is None else config.model.model
        raise VocabularyError(
            f"the draft {config.model.model!r} has {num_draft_ids} token ids and its target {config.assists.model!r} "
            f"has {num_target_ids}; to translate between them both need a tokenizer, but {missing!r} has none: name "
            "one in its 'tokenizer'"
        )
    if agree(target.get_vocab(), draft.get_vocab()):
        return None
    logger.info("%s: its token ids are translated to those of %s", config.model.model, config.assists.model)
    bos = draft.bos_token_id
    return Translation(
        _vocabulary(target, config.assists),
        _vocabulary(draft, config.model),
        _same_roles(target, draft),
        draft_prefix=(bos,) if bos is not None and draft("").input_ids[:1] == [bos] else (),
        num_target_ids=num_target_ids,
        num_draft_ids=num_draft_ids,
    )


def _file(config: "ModelConfig") -> bytes | None:
    """A tokenizer's file as it is, None where it has none: two that are equal need not be loaded."""
    name, revision = (config.model, config.revision) if config.tokenizer is None else (config.tokenizer, None)
    file = find_checkpoint(name, revision).folder / "tokenizer.json"
    return file.read_bytes() if file.is_file() else None


def _vocabulary(tokenizer: Any, config: "ModelConfig") -> Vocabulary:
    """The tokenizer's vocabulary. Raises VocabularyError."""
    try:
        return Vocabulary(tokenizer.backend_tokenizer)
    except (AttributeError, ValueError) as error:
        raise VocabularyError(
            f"{config.model!r}: its token ids cannot be translated to those of another tokenizer: {error}"
        ) from error


def _same_roles(target: Any, draft: Any) -> dict[int, int]:
    """Special tokens of the target by those of the draft that have the same role."""
    found: dict[int, int] = {}
    for role in ROLES:
        own, other = getattr(draft, role, None), getattr(target, role, None)
        if own is not None and other is not None:
            found.setdefault(own, other)
    return found
