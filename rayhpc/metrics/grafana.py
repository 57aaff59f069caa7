"""The files by which a Grafana shows a run: Ray's own dashboards, the datasource, the provisioning of both."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rayhpc.errors import configuration
from rayhpc.inside_ray.grafana_dashboards import dashboards
from rayhpc.metrics.prometheus import USER
from rayhpc.records.run_directory import write_whole

# Ray's dashboards ask for a datasource of this name.
_NAME = "Prometheus"
_INI = """\
[server]
http_addr = 127.0.0.1
[analytics]
reporting_enabled = false
check_for_updates = false
[auth.anonymous]
enabled = true
org_role = Viewer
[paths]
provisioning = {folder}/provisioning
data = {folder}/data
logs = {folder}/logs
plugins = {folder}/plugins
"""


def write(folder: Path, url: str, password: str) -> None:
    """Write the files into a new directory of mode 0700; raises RayhpcError where that fails, or without Ray's."""
    try:
        made = dashboards()
    except ImportError as error:
        raise configuration(
            "Ray's dashboards for Grafana need ray[default]", str(error), next_step="pip install 'rayhpc[metrics]'"
        ) from error
    place = folder.expanduser().absolute()
    try:
        place.mkdir(mode=0o700)
        for name, content in made.items():
            _write(place / "dashboards" / f"{name}.json", content)
        _write(place / "provisioning/datasources/rayhpc.yaml", json.dumps(_datasource(url, password), indent=1))
        _write(place / "provisioning/dashboards/ray.yaml", json.dumps(_provider(place), indent=1))
        _write(place / "grafana.ini", _INI.format(folder=place))
    except OSError as error:
        raise configuration(
            f"{error.filename or place}: {error.strerror}", next_step="name a new directory in one that you may write"
        ) from error


def command(folder: Path) -> list[str]:
    """The command that starts a Grafana with these files, on the host of the Prometheus."""
    home = "/usr/share/grafana"
    return ["grafana", "server", "--homepath", home, "--config", f"{folder.expanduser().absolute()}/grafana.ini"]


def _write(file: Path, content: str) -> None:
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_whole(file, content.encode())


def _datasource(url: str, password: str) -> Mapping[str, Any]:
    """JSON, which is YAML as well."""
    source = {
        "name": _NAME,
        "type": "prometheus",
        "url": url,
        "access": "proxy",
        "isDefault": True,
        "basicAuth": True,
        "basicAuthUser": USER,
        "secureJsonData": {"basicAuthPassword": password},
    }
    return {"apiVersion": 1, "datasources": [source]}


def _provider(place: Path) -> Mapping[str, Any]:
    provider = {"name": "Ray", "folder": "Ray", "type": "file", "options": {"path": f"{place}/dashboards"}}
    return {"apiVersion": 1, "providers": [provider]}
