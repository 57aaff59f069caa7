"""Imports go down. A new package gets a place in LAYERS, a new dependency its owner in OWNERS."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import rayhpc

# The lowest first. A module imports from the layers below its own, and from its own package.
LAYERS = (
    "rayhpc driver_api user_input errors finding units paths options log model messages",
    "inside_ray",
    "processes host",
    "schedulers",
    "records",
    "ranks batch jobs rllib metrics",
    "bootstrap clusters sweep kube sites",
    "doctor lab",
    "launch",
    "start",
    "cli",
    "__main__",
)
# The stages of a run, none of which knows another: lead and follow put them into an order.
STAGES = "resources plan node readiness metrics driver supervise teardown"
# Each outside dependency and who may import it.
OWNERS = {
    "mpi4py": "ranks.mpi",
    "ray": "inside_ray.* jobs.ray_client clusters.probe.node_probe sweep.* rllib.* lab.* examples.*",
    "psutil": "host.this_host",
    "yaml": "jobs.job_file.* sweep.load kube.manifest kube.site lab.* sites.load",
    "torch": "clusters.probe.node_probe",
    "click": "launch.command_line launch.rank cli.* lab.commands",
    "rich": "log sweep.screen cli.*",
    "hydra": "lab.compose lab.objects",
    "omegaconf": "lab.compose",
    "pydantic": "lab.check",
    "annotated_types": "lab.own_groups lab.schema",
    "PIL": "lab.view",
    "imageio_ffmpeg": "lab.view",
    "bcrypt": "metrics.prometheus",
    "matplotlib": "records.plots sweep.plots rllib.learning_curve",
    "gymnasium": "rllib.environments lab.*",
    "optuna": "sweep.search sweep.plots",
    "scipy": "rllib.evaluations",
    "tensorboardX": "sweep.metrics",
    "filelock": "records.lock rllib.output_lock rllib.training",
}
# Never imported with the module: the login node works without them.
LAZY = ("mpi4py", "ray", "torch", "matplotlib", "gymnasium", "optuna", "tensorboardX", "hydra", "scipy", "bcrypt")
# Who may import less than the layers allow. Programs that run by their path import nothing of ours; the login side
# shares data types and files with the compute side, nothing else.
FENCES = {
    "driver_api": "",
    "processes.keeper": "",
    "inside_ray.deferred_agent": "",
    "inside_ray.*": "inside_ray*",
    "clusters.probe.node_probe": "",
    "batch.*": "rayhpc user_input* errors paths units options model log schedulers* records* batch*",
    "rllib.*": "rayhpc driver_api records* rllib*",
    "lab.*": "rayhpc errors units user_input* rllib* sweep* lab*",
    "jobs.*": "rayhpc errors units model user_input* records.registry records.ids records.lock jobs*",
    "kube.*": "rayhpc user_input* errors paths units model records.registry host.network jobs* kube*",
    "metrics.*": "rayhpc errors paths model host.network processes.environment processes.children "
    "processes.keeper_process records* inside_ray.* metrics*",
    "sites.*": "rayhpc errors units user_input* schedulers* batch* jobs* sites*",
    "clusters.*": "rayhpc errors finding paths units model schedulers* records.registry host.network "
    "processes.environment processes.keeper jobs* clusters*",
}

ROOT = Path(rayhpc.__file__).parent
PATHS = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in ROOT.rglob("*.py")}
TREES = {
    "rayhpc" if name == "__init__" else name.removesuffix(".__init__"): ast.parse(path.read_text())
    for name, path in PATHS.items()
}


def among(name: str, patterns: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns.split())


def layer(module: str) -> int | None:
    """The place of a module's package in LAYERS; None for one that has no place."""
    top = module.partition(".")[0]
    return next((place for place, names in enumerate(LAYERS) if top in names.split()), None)


def imported(tree: ast.AST, top: bool = False) -> Iterator[str]:
    """Full names of what a module imports; top: only what it imports outside of functions."""
    for entry in ast.iter_child_nodes(tree):
        if isinstance(entry, ast.Import):
            yield from (alias.name for alias in entry.names)
        elif isinstance(entry, ast.ImportFrom):
            assert entry.level == 0, "relative imports are not used"
            yield from (f"{entry.module}.{alias.name}" for alias in entry.names)
        elif not (top and (isinstance(entry, ast.FunctionDef | ast.AsyncFunctionDef) or for_types(entry))):
            yield from imported(entry, top)


def for_types(entry: ast.AST) -> bool:
    """`if TYPE_CHECKING:`, which imports nothing when the program runs."""
    return isinstance(entry, ast.If) and isinstance(entry.test, ast.Name) and entry.test.id == "TYPE_CHECKING"


def ours(full: str) -> str | None:
    """The module of ours that an import names; None for another's."""
    if full.partition(".")[0] != "rayhpc":
        return None
    name = full.partition(".")[2]
    while name and name not in TREES:
        name = name.rpartition(".")[0]
    return name or "rayhpc"


def goes_down(importer: str, wanted: str) -> bool:
    own, below = layer(importer), layer(wanted)
    same = importer.partition(".")[0] == wanted.partition(".")[0]
    return own is not None and below is not None and (below < own or same or own == below == 0)


def wanted_of(module: str) -> list[str]:
    return sorted({name for full in imported(TREES[module]) if (name := ours(full))})


def outside_of(module: str, top: bool = False) -> list[str]:
    packages = {full.partition(".")[0] for full in imported(TREES[module], top) if ours(full) is None}
    return sorted(packages - sys.stdlib_module_names)


def test_every_module_has_a_place() -> None:
    assert [module for module in TREES if layer(module) is None] == []


def test_imports_go_down() -> None:
    assert [f"{m} -> {name}" for m in TREES for name in wanted_of(m) if not goes_down(m, name)] == []


def test_no_module_imports_itself_by_way_of_others() -> None:
    # A package stands for its __init__ alone: everything in it would import it.
    graph = {m: {name for name in wanted_of(m) if name != m.rpartition(".")[0]} for m in TREES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_stages_do_not_know_each_other() -> None:
    stages = {f"bootstrap.{name}" for name in STAGES.split()}
    above = {f"bootstrap.{name}" for name in ("story", "lead", "follow", "bring_up", "announce")}
    assert stages <= set(TREES)
    assert [f"{m} -> {name}" for m in sorted(stages) for name in wanted_of(m) if name in stages | above] == []


def test_the_table_of_layers_is_read_at_a_glance() -> None:
    assert len(LAYERS) <= 12
    # What lies beside the rooms: at most twelve files.
    assert len([path for path in ROOT.iterdir() if path.is_file()]) <= 12


def test_outside_things_have_one_owner() -> None:
    assert [f"{m} -> {name}" for m in TREES for name in outside_of(m) if not among(m, OWNERS.get(name, ""))] == []


def test_ray_and_mpi_are_not_imported_with_a_module() -> None:
    assert [f"{m} -> {name}" for m in TREES for name in outside_of(m, top=True) if name in LAZY] == []


def test_fences() -> None:
    for pattern, allowed in FENCES.items():
        fenced = [module for module in TREES if fnmatchcase(module, pattern)]
        assert [f"{m} -> {name}" for m in fenced for name in wanted_of(m) if not among(name, allowed)] == []


@pytest.mark.parametrize(
    ("module", "users"),
    [
        ("inside_ray.ray_command", {"processes.ray_start"}),
        ("inside_ray.node_table_server", {"inside_ray.start_hook"}),
        ("inside_ray.patches", {"inside_ray.start_hook"}),
        ("inside_ray.state_server", {"inside_ray.patches"}),
        ("inside_ray.start_hook", set()),
    ],
)
def test_what_runs_inside_ray_start(module: str, users: set[str]) -> None:
    assert {name for name in TREES if module in wanted_of(name)} == users


@pytest.mark.parametrize(
    ("importer", "wanted"),
    [
        ("errors", "bootstrap.plan"),
        ("processes.children", "bootstrap.node"),
        ("processes.children", "host.network"),  # packages of one layer do not know each other
        ("batch.submit", "bootstrap.story"),
        ("bootstrap.story", "start"),
        ("launch.command_line", "cli.main"),
        ("records.run_directory", "bootstrap.node_table"),
        ("nowhere", "model"),
    ],
)
def test_the_table_forbids(importer: str, wanted: str) -> None:
    assert not goes_down(importer, wanted)


def test_a_rank_begins_ray_start_before_it_has_imported_the_rest() -> None:
    script = (
        "import sys, rayhpc.start\n"
        "rest = {'click', 'psutil', 'mpi4py', 'rayhpc.model', 'rayhpc.ranks.comm', 'rayhpc.bootstrap'}\n"
        "rest.add('rayhpc.driver_api')\n"
        "sys.exit(' '.join(rest & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_login_side_loads_neither_ray_nor_mpi() -> None:
    script = (
        "import sys, rayhpc.cli.main, rayhpc.launch.command_line, rayhpc.bootstrap.story\n"
        "sys.exit(' '.join({'ray', 'mpi4py'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
