"""``slipstream plan``: GPUs, memory and what one draft can do, from configurations that have no weights."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from actors.engine.config import EngineConfig, ModelConfig
from actors.engine.errors import ConfigError, DoesNotFitError, ModelNotFoundError
from cluster.cli import cli
from cluster.config import ClusterConfig
from cluster.plan import CUDA_BYTES, GPUS, ClusterPlan, gpu_memory, plan_actor, plan_cluster

MODELS = Path(__file__).parents[1] / "k8s/models"
TARGET, DRAFT = str(MODELS / "qwen3-32b"), str(MODELS / "qwen3-0.6b")
NUM_PARAMETERS = 32_762_123_264  # of Qwen3-32B, as its card says: 32.8B
KV_BYTES = 64 * 8 * 2 * 128 * 2  # layers, KV heads, keys and values, their width, bfloat16


@pytest.mark.parametrize(
    ("quantization", "low", "high"),
    [("none", 2.0, 2.0), ("int8", 1.0, 1.06), ("nf4", 0.5625, 0.65)],  # bytes a parameter; embeddings stay as they are
)
def test_weights_are_counted_as_they_will_be_loaded(quantization: str, low: float, high: float) -> None:
    model = ModelConfig(model=TARGET, quantization=quantization)  # type: ignore[arg-type]
    actor = plan_actor(model, gpu_memory("H200"), num_streams=1, context=1024)
    assert low * NUM_PARAMETERS <= actor.weight_bytes <= high * NUM_PARAMETERS * 1.001
    assert actor.checkpoint_bytes == pytest.approx(2 * NUM_PARAMETERS, rel=0.001)
    assert actor.kv_bytes_per_token == KV_BYTES


@pytest.mark.parametrize(
    ("gpu", "quantization", "streams", "num_gpus"),
    [("L4", "nf4", 1, 2), ("A100-80GB", "nf4", 16, 1), ("H100", "none", 16, 2)],
)
def test_the_fewest_gpus_that_hold_weights_and_cache(gpu: str, quantization: str, streams: int, num_gpus: int) -> None:
    model = ModelConfig(model=TARGET, quantization=quantization)  # type: ignore[arg-type]
    size = gpu_memory(gpu)
    actor = plan_actor(model, size, num_streams=streams, context=8192)
    assert actor.num_gpus == num_gpus
    assert actor.num_kv_tokens >= streams * 8192
    needed = actor.weight_bytes + streams * 8192 * KV_BYTES
    assert needed <= num_gpus * size
    assert actor.weight_bytes + actor.num_kv_tokens * KV_BYTES <= num_gpus * (size - CUDA_BYTES)
    if num_gpus > 1:
        assert needed > 0.8 * num_gpus / 2 * (size - CUDA_BYTES)  # half of them would not do, layers and margin counted


def test_a_context_is_the_models_own_up_to_a_bound() -> None:
    assert plan_actor(ModelConfig(model=TARGET), gpu_memory("H200"), 1).engine.max_model_len == 8192
    demo = plan_actor(ModelConfig(model="demo"), gpu_memory("T4"), 1)
    assert demo.engine == EngineConfig(max_num_seqs=1, max_model_len=1024)
    with pytest.raises(ConfigError, match="max_model_len"):
        plan_actor(ModelConfig(model="demo"), gpu_memory("T4"), 1, context=4096)


def test_too_large_is_said_so() -> None:
    with pytest.raises(DoesNotFitError, match=r"8 GPUs of 1.0 GiB are too few: weights of 1.1 GiB"):
        plan_actor(ModelConfig(model=DRAFT), gpu_memory("1GiB"), num_streams=64, context=32768)
    with pytest.raises(ModelNotFoundError, match="nowhere"):
        plan_cluster("./nowhere", "L4")


@pytest.mark.parametrize(("name", "size"), [("l4", GPUS["L4"] * 2**20), ("24GiB", 24 * 2**30), ("80GB", 80 * 10**9)])
def test_a_gpu_has_a_name_or_a_size(name: str, size: int) -> None:
    assert gpu_memory(name) == size


def test_an_unknown_gpu_names_those_that_are_known() -> None:
    with pytest.raises(ConfigError, match=r"gpu: one of T4, L4, .* but it is 'V100'"):
        gpu_memory("V100")


def test_a_draft_keeps_up_with_several_targets() -> None:
    plan = plan_cluster(TARGET, "H100", assistant_model=DRAFT, quantization="nf4")
    assert plan.draft is not None
    assert plan.num_targets_a_draft == 3  # 0.7 of 19.2 GiB over four rounds of 1.1 GiB
    config = plan.config()
    assert config.draft is not None
    assert (config.target.worker.num_gpus, config.draft.worker.num_gpus) == (1, 1)
    assert config.target.worker.resources == {"slipstream-target": 1.0}
    alone = ClusterPlan(name="x", gpu="H100", gpu_bytes=plan.gpu_bytes, target=plan.target)
    assert alone.num_targets_a_draft == 0 and alone.config().draft is None


def test_the_command_prints_a_table_and_fields_that_can_be_read_back() -> None:
    import yaml

    result = CliRunner().invoke(cli, ["plan", "demo", "--gpu", "L4"])
    assert result.exit_code == 0, result.output
    assert "1 x L4 (22.5 GiB)" in result.output
    text = result.output[result.output.index("# serveConfigV2") :]
    config = ClusterConfig.from_dict(yaml.safe_load(text))
    assert config.target.worker.num_gpus == 1
    assert config.draft is not None and config.draft.worker.model.model == "demo-draft"


def test_the_command_prints_plain_data() -> None:
    result = CliRunner().invoke(cli, ["plan", DRAFT, "--gpu", "80GiB", "--json"])
    data = json.loads(result.output)
    assert data["target"]["num_gpus"] == 1
    assert data["draft"] is None
    assert data["num_targets_a_draft"] == 0
