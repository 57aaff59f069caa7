"""A site's own document, which a cluster or a job starts from: read, and merged with what the options say. Its file is
the one thing here that is not pure."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from rayhpc.kube.options import refused
from rayhpc.user_input import files

Document = dict[str, Any]


def read(file: str, kind: str) -> Document:
    """The document in a file; raises RayhpcError for one that is none of that kind. Ray's containers get our names."""
    try:
        found = yaml.safe_load(files.read_text(Path(file)))
    except (OSError, UnicodeDecodeError) as error:
        why = str(error.strerror if isinstance(error, OSError) else error)
        raise refused(f"{file} cannot be read", why, "-f FILE") from error
    except yaml.YAMLError as error:
        raise refused(f"{file} is no YAML", str(error), "correct the file") from error
    if not isinstance(found, dict) or found.get("kind") != kind:
        raise refused(f"{file} is no {kind}", f"kind: {found.get('kind') if isinstance(found, dict) else None}",
                      f"a file with one document, kind: {kind}")  # fmt: skip
    try:
        _rename(_spec(found))
    except (AttributeError, TypeError, KeyError, IndexError) as error:
        why = f"spec, its headGroupSpec or a group has no template.spec.containers: {type(error).__name__}: {error}"
        raise refused(f"{file} is no {kind} that KubeRay takes", why, f"kubectl explain {kind.lower()}.spec") from error
    return found


def _spec(document: Document) -> Document:
    """The cluster's part."""
    spec: Document = document["spec"]["rayClusterSpec"] if document["kind"] == "RayJob" else document["spec"]
    return spec


def _rename(spec: Document) -> None:
    """The first container of each pod is Ray's; by its name it is found when options change it."""
    workers = spec.get("workerGroupSpecs") or []
    for name, group in [("ray-head", spec["headGroupSpec"]), *(("ray-worker", group) for group in workers)]:
        group["template"]["spec"]["containers"][0]["name"] = name


def fill(base: Document, said: Mapping[str, Any]) -> dict[str, Any]:
    """What the options do not say of image and version, and the file does; whether it has groups of workers."""
    spec = _spec(base)
    image = spec["headGroupSpec"]["template"]["spec"]["containers"][0].get("image", "")
    filled = {"has_groups": bool(spec.get("workerGroupSpecs"))}
    if said["image"]:  # its tag says the version
        return filled
    return {**filled, "image": image, "ray_version": said["ray_version"] or spec.get("rayVersion", "")}


def changed(base: Document, defaults: Document, said: Document) -> Document:
    """A site's document, filled up with our defaults, and changed by what the options say beyond these."""
    whole = _merged(_merged(defaults, base), _beyond(defaults, said))
    named: Document = _merged(whole, {"metadata": said["metadata"]})
    return named


def _merged(base: Any, ours: Any) -> Any:
    """One document with another over it: objects key by key, lists of named things by name, all else replaced."""
    if isinstance(base, dict) and isinstance(ours, dict):
        return {**base, **{key: _merged(base[key], ours[key]) if key in base else ours[key] for key in ours}}
    if isinstance(base, list) and isinstance(ours, list):
        names = [_name(item) for item in base]
        if all(names) and all(map(_name, ours)):
            known = dict(zip(names, base, strict=True))
            return list({**known, **{_name(o): _merged(known.get(_name(o)), o) for o in ours}}.values())
    return copy.deepcopy(ours)


def _beyond(defaults: Any, said: Any) -> Any:
    """The part of a document that is not as by default."""
    if isinstance(defaults, dict) and isinstance(said, dict):
        return {k: _beyond(defaults.get(k), v) for k, v in said.items() if k not in defaults or defaults[k] != v}
    if isinstance(defaults, list) and isinstance(said, list) and all(map(_name, [*defaults, *said])):
        known = {_name(item): item for item in defaults}
        return [
            {**_beyond(known.get(_name(item)), item), **{k: item[k] for k in ("groupName", "name") if k in item}}
            for item in said
            if known.get(_name(item)) != item
        ]
    return said


def _name(item: Any) -> str:
    """What an item of a list is known by; empty for one without a name."""
    return str(item.get("groupName") or item.get("name") or "") if isinstance(item, dict) else ""
