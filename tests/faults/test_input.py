"""Bad input: refused on one screen before anything is started, with the table's exit code; odd input that works."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path

import pytest

from tests.faults.cells import INPUT, Cell, met
from tests.faults.odd import BOUND, SHADOWED, SUM, left, refused, shadow
from tests.launch import Jobs


@pytest.fixture
def here(jobs: Jobs) -> Path:
    """The directory in which the job starts, with a few drivers."""
    directory = jobs.directory / "job"
    directory.mkdir()
    (directory / "ok.py").write_text("print('never')\n")
    (directory / "syntax.py").write_text("import ray\n\ndef train(:\n    pass\n")
    (directory / "plain.txt").write_text("no program\n")
    (directory / "folder").mkdir()
    (directory / "folder.py").mkdir()
    return directory


@pytest.mark.quick
@pytest.mark.parametrize(
    ("what", "words", "code", "sentence"),
    [
        ("driver missing", "nowhere.py", 127, "the driver nowhere.py was not found"),
        ("driver missing, not a .py file", "./nowhere", 127, "the driver ./nowhere was not found"),
        ("driver's module missing", "-m nowhere.train", 127, "the driver's module nowhere.train was not found"),
        ("driver not executable", "./plain.txt", 126, "the driver ./plain.txt is not executable"),
        ("driver a directory", "./folder", 126, "the driver ./folder is a directory"),
        ("driver a directory that ends with .py", "folder.py", 126, "the driver folder.py is a directory"),
        ("driver with a syntax error", "syntax.py", 126, 'File "syntax.py", line 3'),
        ("no driver", "--num-cpus 2", 2, "no driver was named"),
        ("-m without a module", "-m", 2, "-m names no module"),
        ("option misspelt", "--num-cpu 2 ok.py", 2, "'--num-cpus'"),
        ("option out of range", "--port 70000 ok.py", 2, "70000 is not in the range"),
        ("option with nonsense", "--memory much ok.py", 2, "--memory: 'much' is no size"),
        ("--resources that are no JSON", "--resources {fast:1} ok.py", 2, "--resources '{fast:1}' is no JSON"),
        ("--hold with a driver", "--hold ok.py", 2, "--hold keeps a cluster without a driver: ok.py"),
        ("--walltime with --deadline", "--walltime 60 --deadline 2e9 ok.py", 2, "say the same thing"),
        ("--ray-arg against rayhpc", "--ray-arg=--head ok.py", 2, "--ray-arg --head is rayhpc's own to say"),
        ("--min-nodes above the nodes", "--min-nodes 2 ok.py", 78, "--min-nodes 2, but the cluster has 1 node"),
        ("end of the job in the past", "--deadline 1000000000 ok.py", 78, "the end of the job was "),
        ("interface that nobody has", "--interface nope0 ok.py", 78, "no interface of this host matches"),
        (
            "object store larger than /dev/shm",
            "--object-store-memory 900T ok.py",
            78,
            "--object-store-memory 900T, but /dev/shm has",
        ),
    ],
)
def test_refused(jobs: Jobs, here: Path, what: str, words: str, code: int, sentence: str) -> None:
    job = jobs.start(*words.split(), ranks=0)
    seconds = refused(job, code, sentence)
    met(Cell(INPUT, what, f"{code}: '{sentence}…'", seconds, BOUND))


def test_an_import_error(jobs: Jobs, here: Path) -> None:
    """It is the driver's own: its traceback and Python's exit code, no fault of ours."""
    (here / "imports.py").write_text("import no_such_package\n")
    job = jobs.start("imports.py", ranks=0)
    assert job.wait() == 1, job.output()
    assert "ModuleNotFoundError: No module named 'no_such_package'" in job.output()
    assert 'File "' in job.output()
    assert job.record("outcome.json")["fault"] is None
    met(Cell(INPUT, "driver with an ImportError", "1, Python's own, after its traceback: 'the driver ended with 1'"))


def test_a_driver_that_ends_at_once(jobs: Jobs) -> None:
    job = jobs.start("/bin/true", ranks=0)
    assert job.wait() == 0, job.output()
    assert "the driver ended with 0" in job.output()
    met(Cell(INPUT, "driver that ends at once with 0", "0"))


SAYS = "sys.stdout.buffer.write(('ö ' + sys.argv[1]).encode('utf-8', 'surrogateescape') + b'\\n')\n"


# Python takes UTF-8 in the C locale by itself, unless it is told not to.
@pytest.mark.parametrize(
    ("locale", "env"),
    [("of the host", {}), ("C", {"LC_ALL": "C", "LANG": "C"})],
    ids=["host", "C"],
)
def test_utf8_and_spaces_in_every_path(jobs: Jobs, short: Path, locale: str, env: dict[str, str]) -> None:
    """Driver, its argument and output, working directory, run directory; Ray's own directory with a space."""
    here = jobs.directory / "jöb two"
    here.mkdir()
    (here / "drïver ü.py").write_text(SUM + SAYS)
    temp = short / "a b"
    temp.mkdir()
    words = ["--temp-dir", str(temp), "--run-dir", "rüns of mine", "drïver ü.py", "ä b"]
    job = jobs.start(*words, ranks=2, name=here.name, env=env)
    assert job.wait(120) == 0, job.output()
    assert job.output().count("sum 6") == 1
    assert "ö ä b" in job.output()
    assert "\\u" not in job.output() and "\\x" not in job.output() and "\\udc" not in job.output()
    assert f"; run {here / 'rüns of mine'}/2" in job.output()
    (run,) = (here / "rüns of mine").glob("2*")
    assert json.loads((run / "outcome.json").read_text())["command"][-2:] == ["drïver ü.py", "ä b"]
    assert not left(job)
    assert not list(temp.iterdir())
    what = "UTF-8 and a space in driver, argument, output, working and run directory"
    met(Cell(INPUT, f"{what}; locale {locale}", "0"))
    met(Cell(INPUT, "a space in --temp-dir", "0"))


@pytest.mark.quick
def test_utf8_where_python_reads_ascii(jobs: Jobs) -> None:
    """Ray could not send such a path to its nodes."""
    here = jobs.directory / "jöb"
    here.mkdir()
    (here / "ok.py").write_text("print('never')\n")
    env = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    job = jobs.start("ok.py", ranks=0, name=here.name, env=env)
    words = "is no text in this locale, and Ray takes only text"
    seconds = refused(job, 78, words, "Python reads file names as ascii", "export LC_ALL=C.UTF-8")
    met(Cell(INPUT, "UTF-8 in the working directory, where Python reads ASCII", f"78: '… {words}'", seconds, BOUND))


@pytest.mark.quick
def test_utf8_in_the_temp_dir(jobs: Jobs, here: Path, short: Path) -> None:
    """Ray's workers read the session's path as ASCII: such a directory is refused, or avoided where it is TMPDIR."""
    temp = short / "ü"
    temp.mkdir()
    job = jobs.start("--temp-dir", str(temp), "ok.py", ranks=0)
    seconds = refused(job, 78, f"--temp-dir {temp} has letters beyond ASCII, which Ray's workers refuse")
    met(
        Cell(
            INPUT, "UTF-8 in --temp-dir", "78: '… has letters beyond ASCII, which Ray's workers refuse'", seconds, BOUND
        )
    )


def test_200_kb_of_arguments(jobs: Jobs, here: Path) -> None:
    """Many arguments arrive, one by one, on both sides of mpiexec."""
    (here / "counts.py").write_text(SUM + "print('arguments', len(sys.argv) - 1, sum(map(len, sys.argv[1:])))\n")
    job = jobs.start("counts.py", *(["x" * 99] * 2048), ranks=2)
    assert job.wait(120) == 0, job.output()
    assert f"arguments 2048 {99 * 2048}" in job.output()
    met(Cell(INPUT, "200 KB of arguments of the driver; MPICH", "0, all arrive"))


def test_an_argument_that_is_too_long(jobs: Jobs, here: Path) -> None:
    """Linux's limit is 128 KiB for one argument: here it is the address that makes it longer than that."""
    job = jobs.start("ok.py", "{address}" + "x" * (128 * 1024 - 12), ranks=0)
    assert job.wait() == 126, job.output()
    assert "cannot be executed: Argument list too long" in job.output()
    assert "128 KiB in one argument" in job.output()
    assert "never" not in job.output()
    met(Cell(INPUT, "an argument of more than 128 KiB", "126: '… cannot be executed: Argument list too long'"))


PRINTS = """
import os, pathlib, re
line = b"x" * 99 + b"\\n"
for _ in range(100 * 1024):
    os.write(1, line * 10)
pid, peaks = os.getppid(), []
for _ in range(2):  # the keeper and the rank
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    peaks.append(int(re.search(r"VmHWM:\\s+(\\d+)", status)[1]))
    pid = int(re.search(r"PPid:\\s+(\\d+)", status)[1])
os.write(2, f"peaks {peaks}\\n".encode())
"""


def test_a_driver_that_prints_100_mb(jobs: Jobs, here: Path) -> None:
    """All of it arrives, through mpiexec, and the rank does not grow with it."""
    (here / "prints.py").write_text(PRINTS)
    job = jobs.start("prints.py", ranks=1)
    began = time.monotonic()
    assert job.wait(200) == 0
    with (here / "output").open("rb") as output:
        found = sum(chunk.count(b"x") - chunk.count(b"ex") for chunk in iter(lambda: output.read(2**20), b""))
    assert found >= 99 * 10 * 100 * 1024
    tail = (here / "output").read_bytes()[-4096:].decode(errors="replace")
    peaks = [int(word) for word in re.search(r"peaks \[(\d+), (\d+)\]", tail).groups()]  # type: ignore[union-attr]
    assert peaks[0] < 50_000, peaks
    assert peaks[1] < 250_000, peaks
    outcome = f"0, all 100 MB arrive; the rank's peak is {peaks[1] // 1024} MiB, its keeper's {peaks[0] // 1024} MiB"
    met(Cell(INPUT, "a driver that prints 100 MB; MPICH", outcome, time.monotonic() - began, 200))


FORKS = """
import os, subprocess, sys
# A daemon by the book, without our mark: two forks, a session of its own, nothing inherited.
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.closerange(0, 99)
        os.execve("/bin/sleep", ["sleep", "333.25"], {})
    os._exit(0)
os.wait()
subprocess.Popen(["setsid", "sleep", "333.25"])
subprocess.Popen(["nohup", "sleep", "333.25"])
def sleeps(pid):
    try:
        return b"333.25" in open(f"/proc/{pid}/cmdline", "rb").read()
    except OSError:  # ended meanwhile
        return False
def sleepers():
    return [pid for pid in os.listdir("/proc") if pid.isdigit() and sleeps(pid)]
while len(found := sleepers()) < 3:
    pass
print("pids", *found, flush=True)
"""


@pytest.mark.quick
def test_a_driver_that_forks_daemons(jobs: Jobs, here: Path) -> None:
    (here / "forks.py").write_text(FORKS)
    job = jobs.start("forks.py", ranks=0)
    assert job.wait() == 0, job.output()
    pids = [int(word) for word in job.until(r"pids ([\d ]+)").group(1).split()]
    alive = [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    for pid in alive:
        os.kill(pid, signal.SIGKILL)
    assert len(pids) == 3
    assert not alive
    met(Cell(INPUT, "a driver that forks daemons (setsid, double fork, empty environment)", "0, none of them is left"))


def test_a_driver_that_kills_its_parent(jobs: Jobs, here: Path) -> None:
    (here / "kills.py").write_text("import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\n" + SUM)
    job = jobs.start("kills.py", ranks=0)
    assert job.wait() == 137, job.output()
    words = "the driver's parent, a keeper of rayhpc, was killed by SIGKILL, and the driver with it"
    assert words in job.output()
    assert job.record("outcome.json")["cause"] == words
    met(Cell(INPUT, "a driver that kills its parent", f"137: '{words}'"))


@pytest.mark.parametrize("closed", ["<&-", "<&- >&- 2>&-"], ids=["input", "all three"])
def test_standard_streams_are_closed(jobs: Jobs, here: Path, closed: str) -> None:
    (here / "ends.py").write_text(SUM + "print(repr(sys.stdin.read()))\nsys.exit(5)\n")
    script = f'exec "$@" {closed}'
    job = jobs.start_raw("sh", "-c", script, "sh", jobs.mpi.python, "-m", "rayhpc.start", "ends.py")
    assert job.wait() == 5, job.output()
    assert ("sum 6" in job.output()) == (closed == "<&-")
    what = "standard input closed" if closed == "<&-" else "standard input, output and error closed"
    met(Cell(INPUT, what, "the driver's code, from a driver that reads its input, which is empty"))


INHERITED = {
    "RAY_ADDRESS": "10.9.9.9:1",
    "RAY_AUTH_MODE": "disabled",
    "RAY_AUTH_TOKEN": "somebody's",
    "RAY_AUTH_TOKEN_PATH": "/nowhere/token",
    "RAY_TMPDIR": "/nowhere",
    "RAY_NAMESPACE": "other",
}
DEVICES = """
import os
print("GPU", ray.cluster_resources().get("GPU", 0), {n: v for n, v in os.environ.items() if "VISIBLE" in n}, flush=True)
"""


@pytest.mark.parametrize(
    ("what", "env", "seen"),
    [
        ("RAY_ADDRESS, RAY_AUTH_*, RAY_TMPDIR of another cluster", INHERITED, "GPU 0 {}"),
        (
            "http_proxy that nobody answers",
            dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9"),
            "GPU 0 {}",
        ),
        ("CUDA_VISIBLE_DEVICES empty", {"CUDA_VISIBLE_DEVICES": ""}, "GPU 0 {'CUDA_VISIBLE_DEVICES': ''}"),
        (
            "ROCR_VISIBLE_DEVICES without HIP_VISIBLE_DEVICES",
            {"ROCR_VISIBLE_DEVICES": "2,3"},
            "GPU 2.0 {'ROCR_VISIBLE_DEVICES': '2,3', 'HIP_VISIBLE_DEVICES': '0,1'}",
        ),
    ],
    ids=["ray", "proxy", "cuda", "rocr"],
)
def test_inherited_variables(jobs: Jobs, here: Path, what: str, env: dict[str, str], seen: str) -> None:
    (here / "sees.py").write_text(SUM + DEVICES)
    job = jobs.start("sees.py", ranks=0, env=env)
    assert job.wait() == 0, job.output()
    assert "sum 6" in job.output()
    assert seen in job.output()
    assert ("WARNING: set in your environment, not used: RAY_ADDRESS=" in job.output()) == ("RAY_ADDRESS" in env)
    assert "somebody's" not in job.output()
    met(Cell(INPUT, f"inherited: {what}", "0, the run is not disturbed"))


AGENT = """
import os, ray
ray.init(log_to_driver=False)
@ray.remote(num_cpus=1, runtime_env={"env_vars": {"MINE": "1"}}, scheduling_strategy="SPREAD")
def task():
    return os.environ["MINE"]
print("tasks", ray.get([task.remote() for _ in range(8)]).count("1"), flush=True)
"""


def test_modules_of_the_user_with_names_of_others(jobs: Jobs, here: Path) -> None:
    """As with `python sub/train.py`: ranks, keepers, nodes, Ray's agent and workers read none of them."""
    shadow(here)
    (here / "sub").mkdir()
    (here / "sub" / "train.py").write_text(AGENT)
    job = jobs.start("sub/train.py", ranks=2)
    assert job.wait(120) == 0, job.output()
    assert "2/2 Ray nodes" in job.output()
    assert "tasks 8" in job.output()
    assert "shadowed" not in job.output()
    assert not any("shadowed" in path.read_text() for path in job.run.glob("rank-*.log"))
    met(Cell(INPUT, f"{', '.join(SHADOWED)} in the working directory", "0, none of them is imported"))


TALKS = """
import time
for n in range(100):
    print("line", n, flush=True)
    time.sleep(0.1)
"""


def test_the_reader_of_our_output_goes(jobs: Jobs, here: Path) -> None:
    """`mpirun … | head -1`: mpiexec ends the ranks when it cannot write; all is given back."""
    (here / "talks.py").write_text(TALKS)
    start = [*jobs.mpi.mpirun, "-np", "2", jobs.mpi.python, "-m", "rayhpc.start", "talks.py"]
    job = jobs.start_raw("bash", "-c", '"$@" 2>/dev/null | head -1; exit "${PIPESTATUS[0]}"', "bash", *start)
    assert job.wait(60) == 128 + signal.SIGPIPE, job.output()
    assert job.output() == "line 0\n"
    met(Cell(INPUT, "`mpirun … | head -1`, from a driver that goes on printing", "141, the launcher's"))
