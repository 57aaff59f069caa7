"""Many short trials on four nodes, `rayhpc sweep` beside plain Ray Tune: python -m benchmarks.sweep [TRIALS] [TURNS].

Each contender has a launch of its own, in turns. Wall time is that of the driver; CPU seconds are those of all
processes of the launch, without the trials' own (the program's CPU time alone, times the trials) and without those of
a launch whose driver does nothing.

In a Slurm job of four hosts, `sbatch -N4 --exclusive --wrap "python -m benchmarks.sweep"` in a directory that they
share, a shell loop over srun is the third contender. What the other hosts use is not seen then: there is no CPU time.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

TRIAL = [sys.executable, "-S", "-c", "import time; time.sleep(0.5)"]
TUNE = """
import json, subprocess, sys
from ray import tune
trials, command = int(sys.argv[1]), json.loads(sys.argv[2])
def run(config):
    subprocess.run(command, check=True)
    tune.report({"reward": config["x"]})
space = {"x": tune.uniform(0, 1)}
result = tune.Tuner(tune.with_resources(run, {"cpu": 1}), param_space=space,
                    tune_config=tune.TuneConfig(num_samples=trials)).fit()
assert len(result) == trials and not result.errors
"""
# Each step takes one CPU, and waits for it where all are taken.
SRUN = """
for _ in $(seq "$1"); do srun --exact -N1 -n1 -c1 "${@:2}" & steps+=($!); done
for step in "${steps[@]}"; do wait "$step" || exit 1; done
"""
IN_SLURM = "SLURM_JOB_ID" in os.environ
RANKS = ["-np", "4", *(["-ppn", "1"] if IN_SLURM else [])]
LAUNCH = [str(Path(sys.executable).with_name("mpirun")), *RANKS, sys.executable, "-m", "rayhpc.start"]


def drivers(folder: Path, trials: int) -> dict[str, list[str]]:
    """The driver of each contender."""
    (folder / "tune.py").write_text(TUNE)
    (folder / "sweep.yaml").write_text(
        f"command: {json.dumps([*TRIAL, '{x}'])}\nspace: {{x: {{type: uniform, values: [0, 1]}}}}\nsamples: {trials}\n"
    )
    return {
        "nothing": ["/bin/true"],
        "rayhpc sweep": ["-m", "rayhpc", "sweep", "run", "sweep.yaml"],
        "Ray Tune": ["tune.py", str(trials), json.dumps(TRIAL)],
    }


def launch(driver: list[str]) -> tuple[float, float]:
    """Seconds that the driver took, and CPU seconds of the whole launch."""
    with tempfile.TemporaryDirectory() as folder:
        for file in Path.cwd().glob("*.*"):
            Path(folder, file.name).write_bytes(file.read_bytes())
        before = cpu()
        done = subprocess.run([*LAUNCH, *driver], cwd=folder, capture_output=True, text=True, check=False, timeout=500)
        if done.returncode:
            sys.exit(f"{driver} ended with {done.returncode}:\n{done.stderr[-2000:]}")
        (events,) = Path(folder).glob("rayhpc-runs/2*/events.jsonl")
        at = {event["stage"]: event["at"] for event in map(json.loads, events.read_text().splitlines())}
        return at["decided"] - at["driver"], cpu() - before


def srun_loop(trials: int) -> float:
    """Seconds that a shell loop over srun takes."""
    began = time.monotonic()
    subprocess.run(["bash", "-c", SRUN, "loop", str(trials), *TRIAL], check=True, timeout=500)
    return time.monotonic() - began


def cpu() -> float:
    """CPU seconds of all children that have ended, and theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def alone() -> float:
    """CPU seconds of one trial."""
    before = cpu()
    for _ in range(10):
        subprocess.run(TRIAL, check=True)
    return (cpu() - before) / 10


def main(trials: int, turns: int) -> None:
    """Measure and print."""
    own = alone() * trials
    loops: list[float] = []
    if IN_SLURM:
        tempfile.tempdir = str(Path.cwd())  # which the hosts share
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        contenders = drivers(Path(folder), trials)
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
        for _ in range(turns):
            for name, driver in contenders.items():
                found[name].append(launch(driver))
            if IN_SLURM:
                loops.append(srun_loop(trials))
    idle = median(used for _, used in found.pop("nothing"))
    rows = {name: (median(w for w, _ in got), median(c for _, c in got) - idle - own) for name, got in found.items()}
    if loops:
        print(f"{'srun loop':14} {median(loops):6.1f} s")
    for name, (wall, used) in rows.items():
        print(f"{name:14} {wall:6.1f} s" + ("" if loops else f"  {used:6.1f} CPU s beside the trials' own"))
    (ours, ours_cpu), (theirs, theirs_cpu) = rows.values()
    print(f"ratio          {ours / theirs:6.2f}" + ("" if loops else f"    {ours_cpu / theirs_cpu:6.2f}"))


if __name__ == "__main__":
    main(*(int(word) for word in [*sys.argv[1:], *("32", "3")[len(sys.argv) - 1 :]]))
