"""What the manifests hand to Serve and to the batch job: read by what will read it, and matched to its pods."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.serve.schema import ServeDeploySchema

from cluster.cli import cli
from cluster.config import ClusterConfig, PoolConfig
from cluster.plan import ClusterPlan, plan_cluster
from serve_app.app import build_app
from tests.k8s.manifests import FOLDER, Manifest, groups, of_kind, ray_cluster

SERVICES = of_kind("RayService")
MODELS = Path(__file__).parent / "models"  # their configurations, without weights


def serve_config(name: str) -> dict[str, Any]:
    """A RayService's ``serveConfigV2`` as plain data."""
    config: dict[str, Any] = yaml.safe_load(SERVICES[name]["spec"]["serveConfigV2"])
    return config


def cluster_config(name: str) -> ClusterConfig:
    """The cluster that a RayService serves."""
    (application,) = serve_config(name)["applications"]
    return ClusterConfig.from_dict(application["args"])


def pools(config: ClusterConfig) -> dict[str, PoolConfig]:
    """Pools by role, which is also the name of their group of pods."""
    assert config.draft is not None
    return {"target": config.target, "draft": config.draft}


def unknown_fields(data: dict[str, Any], parsed: BaseModel) -> list[str]:
    """Fields that a model of Serve does not have, at any depth: it would ignore them."""
    found = [name for name in data if name not in type(parsed).model_fields]
    for name, value in data.items():
        inner = getattr(parsed, name, None)
        pairs = zip(value, inner, strict=True) if isinstance(inner, list) else [(value, inner)]
        found += [
            field for part, model in pairs if isinstance(model, BaseModel) for field in unknown_fields(part, model)
        ]
    return found


@pytest.mark.parametrize("name", SERVICES)
def test_serve_takes_the_config(name: str) -> None:
    data = serve_config(name)
    parsed = ServeDeploySchema.model_validate(data)
    assert unknown_fields(data, parsed) == []
    assert parsed.proxy_location == "EveryNode"
    (application,) = parsed.applications
    assert application.import_path == "serve_app.app:build_app"
    assert application.route_prefix == "/"
    worker = SERVICES[name]["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in worker["ports"]}
    assert ports["serve"] == parsed.http_options.port


def test_an_unknown_field_would_be_found() -> None:
    data = serve_config("slipstream")
    data["applications"][0]["import_paths"] = "x"
    assert unknown_fields(data, ServeDeploySchema.model_validate(data)) == ["import_paths"]


@pytest.mark.parametrize("name", SERVICES)
def test_slipstream_takes_its_arguments(name: str) -> None:
    (application,) = serve_config(name)["applications"]
    build_app(application["args"])
    for role, pool in pools(cluster_config(name)).items():
        assert pool.max_replicas is not None and pool.max_replicas > pool.replicas, role


@pytest.mark.parametrize("name", SERVICES)
def test_a_pod_of_a_group_holds_one_worker_of_its_pool(name: str) -> None:
    cluster = ray_cluster(SERVICES[name])
    document = {"metadata": {"name": name, "namespace": "slipstream"}, "spec": cluster}
    types = _derive_autoscaling_config_from_ray_cr(document)["available_node_types"]
    for role, pool in pools(cluster_config(name)).items():
        group, kind, worker = groups(cluster)[role], types[role], pool.worker
        assert (kind["min_workers"], kind["max_workers"]) == (pool.replicas, pool.max_replicas)
        assert kind["resources"]["CPU"] >= worker.num_cpus
        assert kind["resources"].get("GPU", 0) == worker.num_gpus
        assert worker.resources == {f"slipstream-{role}": 1.0}
        assert kind["resources"][f"slipstream-{role}"] == 1
        others = {f"slipstream-{other}" for other in types} - {f"slipstream-{role}"}
        assert not others & kind["resources"].keys()
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert float(limits.get("nvidia.com/gpu", 0)) == worker.num_gpus
        grace = group["template"]["spec"].get("terminationGracePeriodSeconds", 30)
        assert grace > pool.scaling.drain_timeout
    assert types["headgroup"]["resources"]["CPU"] == 0


def planned() -> ClusterPlan:
    """What ``slipstream plan`` says to the command in the GPU manifest's header, on the models' configurations here."""
    text = (FOLDER / "gpu/rayservice.yaml").read_text()
    (command,) = re.findall(r"^#\s+slipstream (plan .*)$", text, re.MULTILINE)
    arguments = shlex.split(command)[1:]
    options = dict(cli.commands["plan"].make_context("plan", arguments).params)
    for field in ("model", "assistant_model"):
        options[field] = str(MODELS / options[field].split("/")[-1].lower())
    del options["as_json"]
    return plan_cluster(**options)


def test_the_gpu_manifest_follows_the_plan() -> None:
    service = SERVICES["slipstream"]
    plan, config = planned(), cluster_config("slipstream")
    of_pods = groups(ray_cluster(service))
    assert plan.draft is not None and config.draft is not None
    for role, actor, pool in (("target", plan.target, config.target), ("draft", plan.draft, config.draft)):
        assert pool.worker.num_gpus == actor.num_gpus, role
        assert pool.worker.engine.max_model_len == actor.engine.max_model_len
        assert pool.worker.engine.max_num_seqs >= actor.engine.max_num_seqs
        assert pool.worker.model.quantization == actor.model.quantization
        assert pool.worker.num_cpus == actor.worker(role).num_cpus
        assert pool.worker.resources == actor.worker(role).resources
        limits = of_pods[role]["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert int(limits["nvidia.com/gpu"]) == actor.num_gpus
        assert of_pods[role]["template"]["spec"]["nodeSelector"] == {"nvidia.com/gpu.product": f"NVIDIA-{plan.gpu}"}
    assert config.target.worker.engine.max_num_seqs == plan.target.engine.max_num_seqs
    assert plan.target.num_gpus > 1
    assert config.target.max_replicas is not None
    assert config.draft.max_replicas == -(-config.target.max_replicas // plan.num_targets_a_draft)
    assert config.draft.worker.engine.max_num_seqs == plan.num_targets_a_draft * plan.target.engine.max_num_seqs
    stored = sum(actor.checkpoint_bytes for actor in (plan.target, plan.draft))
    claim = of_kind("PersistentVolumeClaim")["slipstream-models"]["spec"]["resources"]["requests"]["storage"]
    assert stored < int(claim.removesuffix("Gi")) * 2**30


def test_the_batch_job_runs_what_the_command_line_has() -> None:
    job: Manifest = of_kind("RayJob")["slipstream-batch"]
    words = shlex.split(job["spec"]["entrypoint"])
    assert words[:3] == ["python", "-m", "cluster.batch"]
    given = cli.commands["batch"].make_context("batch", words[3:]).params
    config = ClusterConfig.from_file(FOLDER / "batch/cluster.yaml")
    head = ray_cluster(job)["headGroupSpec"]["template"]["spec"]["containers"][0]
    mounts = {mount["mountPath"] for mount in head["volumeMounts"]}
    assert {str(Path(given[name]).parent) for name in ("input_file", "output", "config_file")} <= mounts
    for role, pool in pools(config).items():
        group = groups(ray_cluster(job))[role]
        assert group["maxReplicas"] == pool.replicas
        assert float(group["resources"]["CPU"]) >= pool.worker.num_cpus
        assert {name: float(group["resources"][name]) for name in pool.worker.resources} == pool.worker.resources


def test_the_demo_is_the_embedded_pair() -> None:
    config, demo = cluster_config("slipstream-demo"), ClusterConfig.demo()
    assert demo.draft is not None
    for role, pool in pools(config).items():
        assert pool.worker.model == pools(demo)[role].worker.model
    assert config.router == demo.router
