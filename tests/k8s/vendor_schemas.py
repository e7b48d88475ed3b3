"""``python -m tests.k8s.vendor_schemas FOLDER``: write ``schemas/kuberay.json`` from KubeRay's resource definitions.

FOLDER holds KubeRay's ``ray.io_rayservices.yaml``, ``ray.io_rayjobs.yaml`` and ``ray.io_rayclusters.yaml``. They repeat
the schema of a pod many times over; here every schema that occurs twice is written once, which makes a fortieth of it.
"""

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

TARGET = Path(__file__).parent / "schemas/kuberay.json"
KINDS = {"RayService": "rayservices", "RayJob": "rayjobs", "RayCluster": "rayclusters"}
VERSION = "v1"
MIN_CHARS = 300

Schema = dict[str, Any]


def read(file: Path) -> Schema:
    """The schema of version v1, without the status that the operator writes."""
    definition = yaml.safe_load(file.read_text())
    version = next(entry for entry in definition["spec"]["versions"] if entry["name"] == VERSION)
    schema: Schema = version["schema"]["openAPIV3Schema"]
    return {**schema, "properties": {name: part for name, part in schema["properties"].items() if name != "status"}}


def parts(schema: Schema) -> dict[tuple[str, str], Schema]:
    """The schemas directly inside of one, by where they stand."""
    found = {("properties", name): part for name, part in schema.get("properties", {}).items()}
    for name in ("items", "additionalProperties"):
        if isinstance(schema.get(name), dict):
            found[name, ""] = schema[name]
    return found


def share(schemas: dict[str, Schema]) -> dict[str, Any]:
    """Write schemas that occur more than once into ``$defs``."""
    counts: Counter[str] = Counter()
    names: dict[str, str] = {}
    definitions: dict[str, Any] = {}

    def count(schema: Schema) -> None:
        text = json.dumps(schema, sort_keys=True)
        if len(text) >= MIN_CHARS:
            counts[text] += 1
        if counts[text] <= 1:
            for part in parts(schema).values():
                count(part)

    def rewrite(schema: Schema) -> Schema:
        text = json.dumps(schema, sort_keys=True)
        if counts[text] <= 1:
            return inside(schema)
        if text not in names:
            names[text] = f"d{len(names)}"
            definitions[names[text]] = inside(schema)
        return {"$ref": f"#/$defs/{names[text]}"}

    def inside(schema: Schema) -> Schema:
        result = dict(schema)
        for (place, name), part in parts(schema).items():
            if place == "properties":
                result["properties"] = {**result["properties"], name: rewrite(part)}
            else:
                result[place] = rewrite(part)
        return result

    for schema in schemas.values():
        count(schema)
    kinds = {kind: inside(schema) for kind, schema in schemas.items()}
    return {"kinds": kinds, "$defs": definitions}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    shared = share({kind: read(folder / f"ray.io_{name}.yaml") for kind, name in KINDS.items()})
    TARGET.write_text(json.dumps(shared, sort_keys=True, separators=(",", ":")).replace('},"', '},\n"') + "\n")
