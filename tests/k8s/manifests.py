"""The files under ``k8s/`` as plain data, and a check against a schema that refuses what it does not know."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "k8s"
SCHEMAS = Path(__file__).parent / "schemas"
CUSTOM = {  # custom resources, and the file that has their schema
    kind: file
    for file in ("kuberay.json", "monitoring.json")
    for kind in json.loads((SCHEMAS / file).read_text())["kinds"]
}
RAY_KINDS = ("RayService", "RayJob")

Manifest = dict[str, Any]


def files() -> list[Path]:
    """Every file that holds manifests for ``kubectl``."""
    return sorted(p for p in FOLDER.rglob("*.yaml") if p.name not in ("kustomization.yaml", "cluster.yaml"))


def read(file: Path) -> list[Manifest]:
    """All manifests of one file."""
    return [manifest for manifest in yaml.safe_load_all(file.read_text()) if manifest]


def every() -> list[tuple[str, Manifest]]:
    """All manifests, each with a name for people."""
    return [
        (f"{file.relative_to(FOLDER)}:{manifest['kind']}/{manifest['metadata']['name']}", manifest)
        for file in files()
        for manifest in read(file)
    ]


def of_kind(kind: str) -> dict[str, Manifest]:
    """Manifests of one kind by name."""
    return {m["metadata"]["name"]: m for _, m in every() if m["kind"] == kind}


def ray_cluster(manifest: Mapping[str, Any]) -> Manifest:
    """The RayCluster inside of a RayService or RayJob."""
    spec = manifest["spec"]
    cluster: Manifest = spec["rayClusterConfig"] if manifest["kind"] == "RayService" else spec["rayClusterSpec"]
    return cluster


def groups(cluster: Mapping[str, Any]) -> dict[str, Manifest]:
    """Worker groups by name."""
    return {group["groupName"]: group for group in cluster["workerGroupSpecs"]}


def pod_specs(manifest: Mapping[str, Any]) -> Iterator[tuple[str, Manifest]]:
    """Every pod that a manifest makes, with a name for people."""
    if manifest["kind"] in RAY_KINDS:
        cluster = ray_cluster(manifest)
        yield "head", cluster["headGroupSpec"]["template"]["spec"]
        for name, group in groups(cluster).items():
            yield name, group["template"]["spec"]
        if "submitterPodTemplate" in manifest["spec"]:
            yield "submitter", manifest["spec"]["submitterPodTemplate"]["spec"]
    elif manifest["kind"] in ("StatefulSet", "Deployment"):
        yield manifest["metadata"]["name"], manifest["spec"]["template"]["spec"]


def schema_of(kind: str) -> dict[str, Any]:
    """The schema of a custom resource, closed: a field that it does not name is refused."""
    content = json.loads((SCHEMAS / CUSTOM[kind]).read_text())
    closed = {name: close(part) for name, part in content["$defs"].items()}
    return {**close(content["kinds"][kind]), "$defs": closed}


def close(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema in which every object with named fields has no others, as where an API server is strict."""
    result = {key: value for key, value in schema.items() if key != "x-kubernetes-validations"}
    if "properties" in result:
        result["properties"] = {name: close(part) for name, part in result["properties"].items()}
        if not result.get("x-kubernetes-preserve-unknown-fields"):
            result.setdefault("additionalProperties", False)
    for name in ("items", "additionalProperties"):
        if isinstance(result.get(name), Mapping):
            result[name] = close(result[name])
    return result
