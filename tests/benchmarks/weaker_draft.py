"""The embedded draft with noise on its weights, so that it is right as often as is asked for."""

import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel

import cluster.demo
from cluster.demo.acceptance import agreement, write

FOLDER = Path(cluster.demo.__file__).parent
NOISED = ("down_proj.weight",)
NUM_TOKENS = 64
NUM_HALVINGS = 7
MAX_NOISE = 4.0  # times the spread of a matrix


def noised(weights: dict[str, torch.Tensor], scale: float) -> dict[str, torch.Tensor]:
    """The weights with Gaussian noise of ``scale`` times its spread on each matrix that writes into the residual."""
    generator = torch.Generator().manual_seed(0)
    found = {}
    for name, weight in weights.items():
        found[name] = weight
        if name.endswith(NOISED):
            noise = torch.randn(weight.shape, generator=generator) * weight.float().std() * scale
            found[name] = (weight.float() + noise).to(weight.dtype)
    return found


def weaken(prompts: list[list[int]], acceptance: float, folder: str | None = None) -> Path:
    """Make a draft that agrees with the embedded target at a share of ``acceptance`` of greedy tokens.

    Args:
        prompts: token ids that it is fitted on, cut to the length of the shortest.
        acceptance: the share.
        folder: where to; None makes a temporary one, which whoever calls may delete.

    Returns:
        Folder of the draft.
    """
    torch.set_num_threads(2)
    shortest = min(map(len, prompts))
    target: PreTrainedModel = AutoModelForCausalLM.from_pretrained(FOLDER / "target", dtype=torch.float32).eval()
    draft: PreTrainedModel = AutoModelForCausalLM.from_pretrained(FOLDER / "draft", dtype=torch.float32).eval()
    text = write(target, torch.tensor([prompt[:shortest] for prompt in prompts]), NUM_TOKENS)
    path = Path(folder or tempfile.mkdtemp(prefix="slipstream-draft-"))
    file = FOLDER / "draft" / "model.safetensors"
    weights = load_file(file)
    low, high = 0.0, MAX_NOISE
    for _ in range(NUM_HALVINGS):
        scale = (low + high) / 2
        draft.load_state_dict(noised(weights, scale), strict=False)
        found = float(agreement(draft, text, shortest).float().mean())
        low, high = (scale, high) if found > acceptance else (low, scale)
    for source in (FOLDER / "draft").iterdir():
        if source.suffix == ".json":
            (path / source.name).write_bytes(source.read_bytes())
    save_file(noised(weights, (low + high) / 2), path / "model.safetensors", metadata={"format": "pt"})
    return path
