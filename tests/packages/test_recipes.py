"""The recipes for conda and Spack: they are read by those who build with them, and ask for what setup.cfg asks for."""

from __future__ import annotations

import ast
import configparser
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

import rayhpc
from tests.launch import skip

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / ".venv-docs" / "bin" / "python"
CONDA = ROOT / "packaging" / "conda" / "recipe.yaml"
SPACK = ROOT / "packaging" / "spack" / "spack_repo" / "rayhpc" / "packages" / "py_rayhpc" / "package.py"
RENDER = """
import json, sys
from rattler_build import RenderConfig, Stage0Recipe, VariantConfig
variants = Stage0Recipe.from_file(sys.argv[1]).render(VariantConfig(), RenderConfig())
print(json.dumps([variant.recipe.to_dict() for variant in variants], default=str))
"""
# What others call Ray with RLlib.
RAY = {"ray[rllib]": "ray", "ray-rllib": "ray"}


def wanted() -> dict[str, str]:
    """{package: the lowest version} of setup.cfg."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = setup["options"]["install_requires"].split()
    return {"python": setup["options"]["python_requires"].removeprefix(">="), **dict(map(bounds, lines))}


def bounds(text: str) -> tuple[str, str]:
    """The package and its lowest version in click>=8.1, or click >=8.1."""
    name, _, lowest = text.replace(" ", "").partition(">=")
    return RAY.get(name, name).lower(), lowest


@pytest.fixture(scope="module")
def rendered() -> dict[str, Any]:
    """The conda recipe as rattler-build understands it; one package for all, since it is noarch."""
    if not TOOLS.exists():
        skip(f"no py-rattler-build: {TOOLS} is missing (make docs)")
    words = [TOOLS, "-c", RENDER, CONDA]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    (recipe,) = json.loads(done.stdout)
    assert isinstance(recipe, dict)
    return recipe


def test_the_conda_recipe_is_setup_cfg_s(rendered: dict[str, Any]) -> None:
    assert rendered["package"] == {"name": "rayhpc", "version": rayhpc.__version__}
    assert rendered["build"]["noarch"] == "python"
    assert dict(map(bounds, rendered["requirements"]["run"])) == wanted()
    setup = (ROOT / "setup.cfg").read_text()
    assert all(f"    {script}\n" in setup for script in rendered["build"]["python"]["entry_points"])


def calls(name: str) -> list[ast.Call]:
    """The calls of a directive in the class of the Spack package."""
    (package,) = [node for node in ast.parse(SPACK.read_text()).body if isinstance(node, ast.ClassDef)]
    assert package.name == "PyRayhpc"
    found = [node.value for node in package.body if isinstance(node, ast.Expr)]
    return [call for call in found if isinstance(call, ast.Call) and getattr(call.func, "id", "") == name]


def first(call: ast.Call) -> str:
    value = ast.literal_eval(call.args[0])
    assert isinstance(value, str)
    return value


def test_the_spack_package_is_setup_cfg_s() -> None:
    """Spack itself is on no index: its file is compiled, and read."""
    compile(SPACK.read_text(), str(SPACK), "exec")
    assert rayhpc.__version__ in map(first, calls("version"))
    specs = [first(call) for call in calls("depends_on")]
    asked = dict(re.fullmatch(r"(?:py-)?([a-z0-9-]+)@([0-9.]+):", spec).groups() for spec in specs)  # type: ignore[union-attr]
    assert asked.pop("setuptools")
    assert asked == wanted()
