import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from actors.engine.catalog import Checkpoint, check_weights, fetch_weights, find_checkpoint, resolve_model
from actors.engine.errors import ConfigError, ModelNotFoundError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def checkpoint(folder: Path) -> Checkpoint:
    return Checkpoint(name="tiny", folder=folder)


def test_a_folder_is_found_where_it_is(tmp_path: Path) -> None:
    assert find_checkpoint(str(tmp_path)) == Checkpoint(name=str(tmp_path), folder=tmp_path.resolve())


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/model", "~/nowhere-either", "a/b/c", "with space"])
def test_a_path_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(ModelNotFoundError, match="no such folder: /"):
        find_checkpoint(name)


def test_a_file_is_not_a_model(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.touch()
    with pytest.raises(ModelNotFoundError, match=r"is a file; give the folder"):
        find_checkpoint(str(file))


def test_only_embedded_names_are_mapped(tmp_path: Path) -> None:
    assert resolve_model("org/name") == "org/name"
    assert resolve_model(str(tmp_path)) == str(tmp_path)


def test_a_missing_or_broken_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"there is no config.json in"):
        checkpoint(tmp_path).read_config()
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="is not JSON"):
        checkpoint(tmp_path).read_config()
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ConfigError, match="is not a JSON object"):
        checkpoint(tmp_path).read_config()


def test_weights_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"model.safetensors not found in"):
        check_weights(checkpoint(tmp_path))
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-1.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "model-1.safetensors").touch()
    assert checkpoint(tmp_path).weight_files() == ("model-1.safetensors", "model-2.safetensors")
    with pytest.raises(ModelNotFoundError, match=r": model-2.safetensors not found"):
        fetch_weights(checkpoint(tmp_path))


def test_pickled_weights_are_refused_with_a_way_to_convert_them(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(ConfigError, match=r"only safetensors.*pytorch_model.bin.*save_pretrained\('converted'\)"):
        check_weights(checkpoint(tmp_path))


def hub_cache(root: Path) -> Path:
    """A hub cache that holds one model at one commit."""
    repo = root / "models--org--cached"
    snapshot = repo / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    return snapshot


def offline(code: str, cache: Path) -> str:
    """Run code in a process of its own, since the hub's client reads its environment once."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(cache)}
    code = f"from actors.engine.catalog import *\n{code}\nimport sys\nassert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return done.stdout


def test_a_hub_id_is_found_in_the_cache(tmp_path: Path) -> None:
    snapshot = hub_cache(tmp_path)
    said = offline("c = find_checkpoint('org/cached'); print(c.folder, c.repo_id, c.commit)", tmp_path)
    assert said.split() == [str(snapshot), "org/cached", COMMIT]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ("find_checkpoint('org/absent')", "no org/absent in the hub's cache and HF_HUB_OFFLINE is set"),
        ("find_checkpoint('org/cached', 'v2')", "revision 'v2' of"),
        ("fetch_weights(find_checkpoint('org/cached'))", "model.safetensors not found in"),
    ],
)
def test_a_hub_id_that_is_not_there_says_whether_the_hub_was_asked(tmp_path: Path, call: str, says: str) -> None:
    hub_cache(tmp_path)
    said = offline(f"try:\n {call}\nexcept ModelNotFoundError as error:\n print(error)", tmp_path)
    assert says in said
