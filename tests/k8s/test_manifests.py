"""Every manifest against the schemas of Kubernetes and KubeRay, unknown fields refused, and what it must hold."""

import json
import re
from collections.abc import Mapping
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.k8s.manifests import CUSTOM, FOLDER, Manifest, every, files, of_kind, pod_specs, ray_cluster, read, schema_of

KUBERNETES = "1.34"
MANIFESTS = dict(every())
WITH_PODS = {name: manifest for name, manifest in MANIFESTS.items() if list(pod_specs(manifest))}
CLUSTERS = {name: manifest for name, manifest in MANIFESTS.items() if manifest["kind"] in ("RayService", "RayJob")}


def validate(manifest: Mapping[str, Any]) -> None:
    """Raises a validation error for a field that is wrong or unknown."""
    if manifest["kind"] in CUSTOM:
        jsonschema.Draft202012Validator(schema_of(manifest["kind"])).validate(manifest)
    else:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_is_valid(name: str) -> None:
    validate(MANIFESTS[name])


def edited(manifest: Manifest, path: tuple[str | int, ...], value: Any) -> Manifest:
    """A copy with one more field."""
    copy: Manifest = json.loads(json.dumps(manifest))
    place: Any = copy
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return copy


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("cpu-demo/rayservice.yaml:RayService/slipstream-demo", ("spec", "serveConfig"), "x"),
        ("cpu-demo/rayservice.yaml:RayService/slipstream-demo", ("spec", "rayClusterConfig", "headGroup"), {}),
        (
            "cpu-demo/rayservice.yaml:RayService/slipstream-demo",
            ("spec", "rayClusterConfig", "workerGroupSpecs", 0, "template", "spec", "containers", 0, "envs"),
            [],
        ),
        (
            "cpu-demo/rayservice.yaml:RayService/slipstream-demo",
            ("spec", "rayClusterConfig", "authOptions", "mode"),
            "x",
        ),
        ("batch/rayjob.yaml:RayJob/slipstream-batch", ("spec", "backoffLimits"), 1),
        ("base/redis.yaml:StatefulSet/slipstream-redis", ("spec", "template", "spec", "container"), []),
        ("base/network-policy.yaml:NetworkPolicy/ray", ("spec", "ingres"), []),
        ("monitoring/pod-monitor.yaml:PodMonitor/ray", ("spec", "endpoints"), []),
    ],
)
def test_the_check_refuses_what_it_does_not_know(name: str, path: tuple[str | int, ...], value: Any) -> None:
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        validate(edited(MANIFESTS[name], path, value))


def test_every_file_is_applied_by_a_kustomization() -> None:
    applied = set()
    for file in FOLDER.rglob("kustomization.yaml"):
        kustomization = yaml.safe_load(file.read_text())
        for resource in kustomization["resources"]:
            path = (file.parent / resource).resolve()
            assert path.exists(), f"{file}: there is no {resource}"
            applied.add(path)
        for generator in kustomization.get("configMapGenerator", ()):
            for entry in generator["files"]:
                assert (file.parent / entry.split("=")[-1]).is_file()
    assert {file.resolve() for file in files()} <= applied


@pytest.mark.parametrize("name", WITH_PODS)
def test_pods_have_no_more_rights_than_they_need(name: str) -> None:
    for pod, spec in pod_specs(WITH_PODS[name]):
        assert spec["securityContext"]["runAsNonRoot"], pod
        assert spec["securityContext"]["runAsUser"] > 0, pod
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, pod
        if pod != "head":  # the operator gives the head the account with which its autoscaler asks for pods
            assert spec["automountServiceAccountToken"] is False, pod
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, pod
            assert "memory" in container["resources"]["limits"], pod


@pytest.mark.parametrize("name", WITH_PODS)
def test_what_is_mounted_exists(name: str) -> None:
    manifest = WITH_PODS[name]
    claims = {m["metadata"]["name"] for m in MANIFESTS.values() if m["kind"] == "PersistentVolumeClaim"}
    templates = {t["metadata"]["name"] for t in manifest["spec"].get("volumeClaimTemplates", ())}
    for pod, spec in pod_specs(manifest):
        volumes = {volume["name"] for volume in spec.get("volumes", ())} | templates
        for container in spec["containers"]:
            assert {mount["name"] for mount in container.get("volumeMounts", ())} <= volumes, pod
        for volume in spec.get("volumes", ()):
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in claims, pod


@pytest.mark.parametrize("name", CLUSTERS)
def test_ray_is_behind_a_token_and_scales(name: str) -> None:
    cluster = ray_cluster(CLUSTERS[name])
    assert cluster["authOptions"] == {"mode": "token", "secretName": "slipstream-ray-token"}
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert all(spec["restartPolicy"] == "Never" for _, spec in pod_specs(CLUSTERS[name]))


@pytest.mark.parametrize("name", of_kind("RayService"))
def test_a_service_outlives_its_head_and_knows_when_it_is_ready(name: str) -> None:
    service = of_kind("RayService")[name]
    redis = of_kind("Service")["slipstream-redis"]
    options = ray_cluster(service)["gcsFaultToleranceOptions"]
    assert options["redisAddress"] == f"{redis['metadata']['name']}:{redis['spec']['ports'][0]['port']}"
    assert options["redisPassword"]["valueFrom"]["secretKeyRef"]["name"] == "slipstream-redis"
    assert service["spec"]["excludeHeadPodFromServeSvc"] is True
    for pod, spec in pod_specs(service):
        (container,) = spec["containers"]
        keys = {entry["name"] for entry in container["env"] if "secretKeyRef" in entry.get("valueFrom", {})}
        assert {"SLIPSTREAM_API_KEYS", "SLIPSTREAM_API_KEY"} <= keys, pod
        if pod == "head":  # the operator hands over the application only to a head that is ready
            assert "readinessProbe" not in container
        else:
            command = " ".join(container["readinessProbe"]["exec"]["command"])
            port = {p["name"]: p["containerPort"] for p in container["ports"]}["serve"]
            assert re.findall(rf"http://127.0.0.1:{port}(\S+)", command) == ["/-/healthz", "/ready"]


def test_the_network_is_closed_but_for_what_is_named() -> None:
    policies = of_kind("NetworkPolicy")
    default = policies["deny-by-default"]["spec"]
    assert default["podSelector"] == {} and set(default["policyTypes"]) == {"Ingress", "Egress"}
    assert "ingress" not in default
    ray = policies["ray"]["spec"]["ingress"]
    assert all(rule["from"] for rule in ray)
    assert all("ports" in rule for rule in ray[1:]), "only nodes of Ray may use every port"


def test_monitors_ask_where_metrics_are() -> None:
    (endpoint,) = of_kind("ServiceMonitor")["slipstream"]["spec"]["endpoints"]
    head = ray_cluster(of_kind("RayService")["slipstream-demo"])["headGroupSpec"]["template"]["spec"]["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in head["ports"]}
    assert endpoint["port"] in ports and endpoint["path"] == "/metrics"
    (endpoint,) = of_kind("PodMonitor")["ray"]["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] in ports


def test_the_dashboard_shows_metrics_that_exist() -> None:
    from actors.status import ClusterStats, WorkerStatus
    from serve_app.metrics import Metrics
    from tests.actors.fakes import make_info

    metrics = Metrics("demo")
    for histogram in (metrics.first_token_seconds, metrics.inter_token_seconds, metrics.request_seconds):
        histogram.observe(0.1)
    metrics.count_finished("stop")
    metrics.count_error(400)
    workers = (WorkerStatus(info=make_info("t")), WorkerStatus(info=make_info("d", "draft")))
    stats = ClusterStats(workers=workers, num_accepted_tokens_per_pos=(1, 1))
    exported = set(re.findall(r"^(slipstream:\w+)", metrics.render(stats).decode(), re.MULTILINE))
    dashboard = json.loads((FOLDER / "monitoring/dashboard.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    shown = {name for query in queries for name in re.findall(r"slipstream:\w+", query)}
    assert len(dashboard["panels"]) >= 10
    assert len(shown) >= 12
    assert shown <= exported


def test_the_image_has_what_the_manifests_run() -> None:
    text = (FOLDER / "Dockerfile").read_text()
    ignored = (FOLDER / "Dockerfile.dockerignore").read_text()
    for package in ("actors", "cluster", "serve_app"):
        assert f"COPY {package} {package}" in text
        assert f"!{package}" in ignored
    assert "USER 1000" in text
    images = {c["image"] for _, m in every() for _, spec in pod_specs(m) for c in spec["containers"]}
    assert {image for image in images if image.startswith("slipstream")} <= {f"slipstream:{n}" for n in ("cpu", "cuda")}
    assert all(f"-t {image}" in text for image in images if image.startswith("slipstream"))


def test_files_are_read_whole() -> None:
    assert sum(len(read(file)) for file in files()) == len(MANIFESTS) >= 12
