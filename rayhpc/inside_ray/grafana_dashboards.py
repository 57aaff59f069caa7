"""The dashboards that Ray has for Grafana, as Ray makes them for its own."""

from __future__ import annotations

import importlib

_FACTORY = "ray.dashboard.modules.metrics.grafana_dashboard_factory"
_PREFIX, _SUFFIX = "generate_", "_grafana_dashboard"


def dashboards() -> dict[str, str]:
    """The name of each, and its JSON; empty where this Ray makes none. Raises ImportError without ray[default]."""
    factory = importlib.import_module(_FACTORY)
    names = [name for name in dir(factory) if name.startswith(_PREFIX) and name.endswith(_SUFFIX)]
    return {name.removeprefix(_PREFIX).removesuffix(_SUFFIX): getattr(factory, name)()[0] for name in names}
