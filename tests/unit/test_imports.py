"""Imports go down. A new module gets a place in FLOORS, a new dependency its owner in OWNERS."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

import rayhpc

# The lowest first. A module imports what stands on a line below its own, never its own line: modules that may import
# each other's neighbours stand on lines of their own. A full name counts before a pattern.
FLOORS = {
    "words": "rayhpc errors paths units options bootstrap batch clusters jobs",
    "words, the data": "model",
    "pure, schedulers' facts": "schedulers.facts",
    "pure, schedulers": "schedulers.*",
    "pure, on its own": "rayhook variables",
    "pure": "roster decision liveness timeline schedulers share rayargs environment addressfile findings",
    "on the cluster": "probes probes.*",
    "what a hand needs": "launcher limits",
    "how Ray starts": "rayhaste rayagent raymain rayapi",
    "hands": "keeper comm net beats host records nodetable rayjobs signals log commands tls star runs plots sheet",
    "hands on the keeper": "keeping",
    "hands on hands": "raystart proc jobclient allocations registry meeting jobfile",
    "hands, all together": "watch warmup registration rendezvous",
    "stages": "bootstrap.*",
    "stories": "bootstrap.lead bootstrap.follow batch.jobscript batch.status batch.cancel clusters.sight",
    "stories of jobs": "jobs.script jobs.targets jobs.find",
    "stories of jobs that were found": "jobs.wait jobs.bundle",
    "whole stories": "bootstrap.story batch.* clusters.* jobs.*",
    "command line": "commandline cli_base",
    "one rank": "rank",
    "entry points": "start cli_*",
    "an entry point on another": "terminals",
    "the command line of that one": "cli_node",
    "the entry point that has the others": "cli",
    "python -m rayhpc": "__main__",
}
# Each outside dependency and who may import it.
OWNERS = {
    "mpi4py": "comm",
    "ray": "rayhaste raymain rayapi jobclient probes.*",
    "psutil": "host",
    "yaml": "sheet jobfile",
    "torch": "probes.*",
    "click": "commandline rank cli cli_*",
    "rich": "log cli cli_*",
    "matplotlib": "plots",
}
# Never imported with the module: the login node works without them.
LAZY = ("mpi4py", "ray", "torch", "matplotlib")
# Who may import less than the floors allow: the keeper runs without our package; the login side shares data only.
FENCES = {
    "keeper": "",
    "rayagent": "",
    "raymain": "",
    "probes.*": "rayhpc",
    "batch.*": "rayhpc errors paths units options model schedulers schedulers.* "
    "records allocations commands log batch.*",
    "jobs.*": "rayhpc errors model variables probes.node_probe addressfile registry rayjobs jobclient jobs.*",
    "clusters.*": "rayhpc errors paths units model schedulers schedulers.* "
    "registry liveness environment keeper net commands clusters.*",
}

ROOT = Path(rayhpc.__file__).parent
PATHS = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in ROOT.rglob("*.py")}
TREES = {
    "rayhpc" if name == "__init__" else name.removesuffix(".__init__"): ast.parse(path.read_text())
    for name, path in PATHS.items()
}


def among(name: str, patterns: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns.split())


def floor(module: str) -> int | None:
    exact = [place for place, names in enumerate(FLOORS.values()) if module in names.split()]
    return next(iter(exact + [place for place, names in enumerate(FLOORS.values()) if among(module, names)]), None)


def imported(tree: ast.AST, top: bool = False) -> Iterator[str]:
    """Full names of what a module imports; top: only what it imports outside of functions."""
    for entry in ast.iter_child_nodes(tree):
        if isinstance(entry, ast.Import):
            yield from (alias.name for alias in entry.names)
        elif isinstance(entry, ast.ImportFrom):
            assert entry.level == 0, "relative imports are not used"
            yield from (f"{entry.module}.{alias.name}" for alias in entry.names)
        elif not (top and isinstance(entry, ast.FunctionDef | ast.AsyncFunctionDef)):
            yield from imported(entry, top)


def ours(full: str) -> str | None:
    """The module of ours that an import names; None for another's."""
    if full.partition(".")[0] != "rayhpc":
        return None
    name = full.partition(".")[2]
    while name and name not in TREES:
        name = name.rpartition(".")[0]
    return name or "rayhpc"


def goes_down(importer: str, wanted: str) -> bool:
    own, below = floor(importer), floor(wanted)
    return own is not None and below is not None and below < own


def wanted_of(module: str) -> list[str]:
    return sorted({name for full in imported(TREES[module]) if (name := ours(full))})


def outside_of(module: str, top: bool = False) -> list[str]:
    packages = {full.partition(".")[0] for full in imported(TREES[module], top) if ours(full) is None}
    return sorted(packages - sys.stdlib_module_names)


def test_every_module_has_a_place() -> None:
    assert [module for module in TREES if floor(module) is None] == []


def test_imports_go_down() -> None:
    assert [f"{m} -> {name}" for m in TREES for name in wanted_of(m) if not goes_down(m, name)] == []


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
    [("raymain", {"warmup"}), ("rayapi", {"raystart"}), ("rayhaste", {"raystart"}), ("raystart", set())],
)
def test_what_runs_inside_ray_start(module: str, users: set[str]) -> None:
    assert {name for name in TREES if module in wanted_of(name)} == users


@pytest.mark.parametrize(
    ("importer", "wanted"),
    [
        ("errors", "model"),  # words import no data
        ("proc", "bootstrap.node"),  # hands import no stage
        ("bootstrap.plan", "bootstrap.node"),  # stages import no stage
        ("bootstrap.teardown", "bootstrap.lead"),
        ("bootstrap.lead", "bootstrap.follow"),
        ("batch.submit", "bootstrap.story"),
        ("bootstrap.story", "start"),
        ("commandline", "cli"),
        ("records", "nodetable"),  # hands stand side by side
        ("nowhere", "model"),
    ],
)
def test_the_table_forbids(importer: str, wanted: str) -> None:
    assert not goes_down(importer, wanted)


def test_a_rank_begins_ray_start_before_it_has_imported_the_rest() -> None:
    script = (
        "import sys, rayhpc.start\n"
        "rest = {'click', 'psutil', 'mpi4py', 'rayhpc.model', 'rayhpc.comm', 'rayhpc.bootstrap'}\n"
        "sys.exit(' '.join(rest & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_login_side_loads_neither_ray_nor_mpi() -> None:
    script = (
        "import sys, rayhpc.cli, rayhpc.commandline, rayhpc.bootstrap.story\n"
        "sys.exit(' '.join({'ray', 'mpi4py'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
