import json
from pathlib import Path

from transformers import GenerationConfig

from actors.engine.config import ModelConfig
from cluster.defaults import generation_defaults
from cluster.pretrained import load_generation_config, load_model_config
from tests.cluster.fakes import EOS, PAD, tiny_llama


def test_defaults_agree_with_those_of_transformers(tmp_path: Path) -> None:
    tiny_llama(tmp_path)
    config = ModelConfig(model=str(tmp_path), generation={"temperature": 0.5, "do_sample": True})
    plain = generation_defaults(config)
    loaded = load_generation_config(config, load_model_config(config))
    assert plain["eos_token_id"] == loaded.eos_token_id == EOS
    assert plain["temperature"] == loaded.temperature == 0.5
    assert {name: getattr(loaded, name) for name in plain if name in GenerationConfig().to_dict()}.items() >= {
        ("do_sample", True),
        ("pad_token_id", PAD),
    }


def test_without_a_file_special_tokens_come_from_the_models_configuration(tmp_path: Path) -> None:
    tiny_llama(tmp_path)
    (tmp_path / "generation_config.json").unlink()
    config = ModelConfig(model=str(tmp_path))
    plain = generation_defaults(config)
    loaded = load_generation_config(config, load_model_config(config))
    own = json.loads((tmp_path / "config.json").read_text())
    assert plain["eos_token_id"] == loaded.eos_token_id == own["eos_token_id"] == EOS
    assert "max_length" not in plain
