"""packaging/Dockerfile, which cannot be built without a registry: what it copies is a whole package, what it installs
is what setup.cfg asks for, its Ray is that of the tests."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from tests.packages.test_recipes import ROOT, wanted

TEXT = re.sub(r"\\\n\s*", " ", (ROOT / "packaging" / "Dockerfile").read_text())
PINS = dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", (ROOT / "constraints.txt").read_text().lower(), re.MULTILINE))
# There.
LEFT_OUT = {"python", "ray"}


def test_its_ray_is_the_one_of_the_tests() -> None:
    (tag,) = re.findall(r"^ARG RAY=(\S+)$", TEXT, re.MULTILINE)
    assert tag.split("-")[0] == PINS["ray"]
    assert re.search(r"^FROM rayproject/ray:\$\{RAY\}$", TEXT, re.MULTILINE)
    assert f"lab/ray:{PINS['ray']} ." in TEXT
    assert TEXT.splitlines()[-1] == "USER 1000"


def test_what_it_copies_is_the_package(tmp_path: Path) -> None:
    """The copied files alone are built as pip does it there: nothing of the package is missing."""
    place = tmp_path / "rayhpc"
    for words in re.findall(r"^COPY --chown=1000:100 (.+)$", TEXT, re.MULTILINE):
        *sources, target = words.split()
        for source in sources:
            to = place / Path(target).relative_to("/tmp/rayhpc")
            if (ROOT / source).is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(ROOT / source, to, symlinks=True, dirs_exist_ok=True, ignore=ignored)
            else:
                to.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / source, to)
    words = ("-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, place)
    subprocess.run([sys.executable, *words], check=True, timeout=240)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {str(path.relative_to(ROOT)) for path in (ROOT / "rayhpc").rglob("*.py")}
    expected |= {f"rayhpc/jobscripts/{path.name}" for path in (ROOT / "jobscripts").iterdir()}
    assert {*expected, "rayhpc/examples/train_ppo.py"} - names == set()


def test_what_it_installs_is_what_setup_cfg_asks_for() -> None:
    assert re.search(r"--constraint \S+/constraints.txt\s+-r \S+/packaging/image-requirements.txt", TEXT)
    lines = (ROOT / "packaging" / "image-requirements.txt").read_text().lower().splitlines()
    installed = {re.split(r"[>=\[]", line)[0] for line in lines if not line.startswith("#")}
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    rllib = {re.split(r"[>=\[]", name)[0] for name in setup["options.extras_require"]["rllib"].split()}
    assert {*wanted(), *rllib} - LEFT_OUT <= installed
    assert {name for name in installed if name not in PINS} == set()
