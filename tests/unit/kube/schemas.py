"""KubeRay's CRDs as the API server applies them: defaults filled in, unknown keys refused."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from tests.launch import skip

FOLDER = Path(__file__).parents[4] / "shared/kuberay"
CRDS = {"RayCluster": "ray.io_rayclusters.yaml", "RayJob": "ray.io_rayjobs.yaml"}


@functools.cache
def definition(kind: str) -> dict[str, Any]:
    """The CRD itself."""
    file = FOLDER / CRDS[kind]
    if not file.exists():
        skip(f"KubeRay's CRDs are not there: {file}")
    found: dict[str, Any] = yaml.load(file.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return found


@functools.cache
def validator(kind: str) -> jsonschema.Draft202012Validator:
    (version,) = (each for each in definition(kind)["spec"]["versions"] if each["name"] == "v1")
    return jsonschema.Draft202012Validator(_closed(version["schema"]["openAPIV3Schema"], top=True))


def _closed(schema: Any, top: bool = False) -> Any:
    """An OpenAPI schema of Kubernetes as a JSON schema without unknown keys."""
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"], **{k: v for k, v in schema.items() if k == "pattern"}}
    made = {key: value for key, value in schema.items() if not key.startswith("x-kubernetes") and key != "format"}
    if schema.get("nullable"):
        made["type"] = [schema["type"], "null"]
    if "properties" in schema:
        made["properties"] = {key: _closed(value) for key, value in schema["properties"].items()}
        if top:
            made["properties"]["metadata"] = {"type": "object"}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            made["additionalProperties"] = False
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            made[key] = _closed(schema[key])
    return made


def fill(schema: Any, value: Any) -> None:
    """Set the defaults, in place, as the server does before it looks at what is required."""
    if isinstance(value, dict):
        for key, inner in schema.get("properties", {}).items():
            if key not in value and "default" in inner:
                value[key] = inner["default"]
            if key in value:
                fill(inner, value[key])
    elif isinstance(value, list):
        for item in value:
            fill(schema.get("items", {}), item)


def problems(document: dict[str, Any]) -> list[str]:
    """What the server would refuse in a document; its defaults are filled in, in place."""
    found = validator(document["kind"])
    fill(found.schema, document)
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in found.iter_errors(document)]
