"""Where a model's files are: a local folder, the hub's cache, or the pair that ships with Slipstream.

Everything behind this module works on a local folder. For a hub id, metadata (configuration, tokenizer) is fetched
first and weights only once a plan has shown that they will fit. Free of torch and transformers.
"""

import importlib.util
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.engine.errors import ConfigError, ModelNotFoundError

EMBEDDED = {"demo": "target", "demo-draft": "draft"}  # public name to its folder under cluster/demo
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"

_METADATA = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken")
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model whose configuration is on disk.

    Attributes:
        name: the model as it was asked for.
        folder: holds ``config.json`` and the tokenizer; the weights too, unless they have yet to be fetched.
        repo_id: the hub id, or None for a local folder.
        commit: of the hub id, fixed when metadata was fetched so that weights match it.
    """

    name: str
    folder: Path
    repo_id: str | None = None
    commit: str | None = None

    def read_config(self) -> dict[str, Any]:
        """Return ``config.json`` as it is. Raises ModelNotFoundError, ConfigError."""
        file = self.folder / "config.json"
        if not file.is_file():
            raise ModelNotFoundError(f"model {self.name!r}: there is no config.json in {self.folder}")
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ConfigError(f"model {self.name!r}: {file} is not JSON: {error}") from error
        if not isinstance(content, dict):
            raise ConfigError(f"model {self.name!r}: {file} is not a JSON object")
        return content

    def weight_files(self) -> tuple[str, ...]:
        """Return the names of the safetensors files that hold the weights, as the index or convention says."""
        index = self.folder / INDEX
        if not index.is_file():
            return (WEIGHTS,)
        weight_map: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return tuple(sorted(set(weight_map.values())))


def resolve_model(name: str) -> str:
    """Return the folder of an embedded model, and any other name (a path or a hub id) as it is.

    Raises:
        ModelNotFoundError: the name is an embedded model's, but this installation lacks its files.
    """
    if name not in EMBEDDED or Path(name).is_dir():
        return name
    package = importlib.util.find_spec("cluster")  # finds the package without running it
    for location in (package.submodule_search_locations or ()) if package else ():
        folder = Path(location) / "demo" / EMBEDDED[name]
        if (folder / "config.json").is_file():
            return str(folder)
    raise ModelNotFoundError(
        f"model {name!r}: the embedded model is missing from this installation (cluster/demo/{EMBEDDED[name]}); "
        "reinstall Slipstream, or train it with python -m cluster.demo.train"
    )


def find_checkpoint(name: str, revision: str | None = None) -> Checkpoint:
    """Find a model by path, hub id or embedded name. Fetches a hub id's metadata, never its weights.

    Raises:
        ModelNotFoundError: nothing is there; for a hub id, whether the hub was asked is said.
    """
    location = resolve_model(name)
    folder = Path(location).expanduser()
    if folder.is_dir():
        return Checkpoint(name=name, folder=folder.resolve())
    if folder.exists():
        raise ModelNotFoundError(f"model {name!r}: {folder} is a file; give the folder that holds config.json")
    if location.startswith((".", "/", "~")) or not _HUB_ID.fullmatch(location):
        raise ModelNotFoundError(f"model {name!r}: no such folder: {folder.absolute()}")
    snapshot = _snapshot(name, location, revision, _METADATA)
    return Checkpoint(name=name, folder=snapshot, repo_id=location, commit=snapshot.name)


def fetch_weights(checkpoint: Checkpoint) -> None:
    """Bring a hub id's weights into its folder, and check that all weight files of any checkpoint are there.

    Raises:
        ModelNotFoundError: weight files are missing.
        ConfigError: the weights are there, but not as safetensors.
    """
    files = checkpoint.weight_files()
    if checkpoint.repo_id is not None:
        _snapshot(checkpoint.name, checkpoint.repo_id, checkpoint.commit, files)
    check_weights(checkpoint)


def check_weights(checkpoint: Checkpoint) -> None:
    """Check that a folder holds all its weights as safetensors. Raises as :func:`fetch_weights`."""
    missing = [file for file in checkpoint.weight_files() if not (checkpoint.folder / file).is_file()]
    if not missing:
        return
    pickles = sorted(file.name for file in checkpoint.folder.glob("*.bin")) if missing == [WEIGHTS] else []
    if pickles:
        raise ConfigError(
            f"model {checkpoint.name!r}: only safetensors are loaded, but {checkpoint.folder} has {pickles[0]}. "
            "Convert it once, where you trust the file: "
            f"AutoModelForCausalLM.from_pretrained({checkpoint.name!r}).save_pretrained('converted')"
        )
    raise ModelNotFoundError(f"model {checkpoint.name!r}: {', '.join(missing)} not found in {checkpoint.folder}")


def _snapshot(name: str, repo_id: str, revision: str | None, patterns: tuple[str, ...]) -> Path:
    """Fetch files of a hub id that match, or find them in the cache, and return their folder."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    what = f"model {name!r}: " + (f"revision {revision!r} of " if revision else "")
    offline = " and HF_HUB_OFFLINE is set, so the hub was not asked" if constants.HF_HUB_OFFLINE else ""
    try:
        return Path(
            snapshot_download(repo_id, revision=revision, allow_patterns=list(patterns), ignore_patterns=["*/*"])
        )
    except GatedRepoError as error:
        raise ModelNotFoundError(f"{what}{repo_id} is gated; set HF_TOKEN to a token that may read it") from error
    except RevisionNotFoundError as error:
        raise ModelNotFoundError(f"{what}the hub's {repo_id} has no such revision") from error
    except RepositoryNotFoundError as error:
        raise ModelNotFoundError(
            f"{what}no folder {Path(repo_id).absolute()}, and the hub has no {repo_id} that HF_TOKEN may read"
        ) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        reason = offline or ", and the hub cannot be reached"
        raise ModelNotFoundError(
            f"{what}no folder {Path(repo_id).absolute()}, no {repo_id} in the hub's cache{reason}"
        ) from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise ModelNotFoundError(f"{what}{repo_id} cannot be fetched from the hub: {error}") from error
