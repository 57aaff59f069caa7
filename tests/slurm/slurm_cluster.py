"""A handle on the virtual hosts of `virtual_hosts.sh`: commands, jobs, faults, and what is left on a host."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn, TypeVar

SCRIPT = Path(__file__).with_name("virtual_hosts.sh")
CONTROLLER = "ctl"
SECOND_ACCOUNT = "alice"
FINAL_STATES = (
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT",
)  # fmt: skip

_PROGRAMS = ("slurmctld", "slurmd", "munged", "nsenter", "unshare", "setpriv", "ip", "flock")
_DAEMONS = frozenset(("slurmctld", "slurmscriptd", "slurmd", "munged", "sge_qmaster", "sge_execd"))
_PRIVATE = ("/tmp", "/var/tmp", "/dev/shm")
_POLL_S = 0.2
_T = TypeVar("_T")


class HarnessError(AssertionError):
    """The virtual hosts did not do what a test asked for; says what, where, the evidence and the next step."""


@dataclass(frozen=True)
class Process:
    """A process as its host numbers it; argv is `("[name]",)` where there is none (zombies)."""

    pid: int
    argv: tuple[str, ...]


@dataclass(frozen=True)
class Ended:
    """How a batch job ended: Slurm's word, exit code and signal, and what stdout and stderr hold together."""

    state: str
    exit_code: int
    signal: int
    output: str


def why_unavailable() -> str | None:
    """Say why this machine cannot have virtual hosts, or None where it can; never raises."""
    if os.geteuid() != 0:
        return "virtual hosts need root (namespaces and mounts)"
    if missing := [program for program in _PROGRAMS if not shutil.which(program)]:
        return f"missing: {' '.join(missing)}; apt-get install slurmctld slurmd slurm-client munge iproute2"
    trial = subprocess.run(
        ["unshare", "--net", "--uts", "--ipc", "--pid", "--mount", "--fork", "mount", "-t", "tmpfs", "none", "/tmp"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return f"no namespaces here: {trial.stderr.strip()}" if trial.returncode else None


def poll(found: Callable[[], _T | None], timeout: float, on_timeout: Callable[[], str]) -> _T:
    """Return the first value of `found()` that is not None; HarnessError with `on_timeout()` past the deadline."""
    deadline = time.monotonic() + timeout
    while (value := found()) is None:
        if time.monotonic() > deadline:
            raise HarnessError(f"not within {timeout:g} s: {on_timeout()}")
        time.sleep(_POLL_S)
    return value


@contextlib.contextmanager
def virtual_cluster(
    size: int, state: Path, shared: Sequence[Path] = (), settings: Mapping[str, str] | None = None
) -> Iterator[SlurmCluster]:
    """Bring up `size` nodes and a controller, and remove all of it at the end, however this process ends.

    `settings` are the `VH_…` variables that `virtual_hosts.sh` explains. HarnessError if Slurm does not come up.
    """
    cluster = SlurmCluster(size, state, _sharable(shared), settings or {})
    with tempfile.TemporaryFile("w+") as log:
        # The keeper takes the cluster down when its standard input ends: by our leaving this block, or by our death.
        with subprocess.Popen(
            [SCRIPT, "hold", str(size)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            env=cluster.environment, cwd="/", start_new_session=True,
        ) as keeper:  # fmt: skip
            assert keeper.stdout is not None
            if keeper.stdout.readline() != "up\n":
                keeper.wait(timeout=60)
                raise HarnessError(f"{SCRIPT.name} up {size}: no cluster in {state}\n{_content(log)}")
            yield cluster
        if keeper.returncode:
            raise HarnessError(f"{SCRIPT.name} down: {state} is not removed; run it by hand\n{_content(log)}")


def _sharable(directories: Sequence[Path]) -> tuple[Path, ...]:
    """Keep what exists and lies in a directory that hosts do not share by themselves; never raises."""
    distinct = dict.fromkeys(directory for directory in directories if directory.is_dir())
    return tuple(path for path in distinct if any(path.is_relative_to(private) for private in _PRIVATE))


class SlurmCluster:
    """A Slurm of `ctl` (login and controller) and `node1` … `nodeN`; every method raises HarnessError on failure."""

    def __init__(self, size: int, state: Path, shared: tuple[Path, ...], settings: Mapping[str, str]) -> None:
        self.nodes = tuple(f"node{number}" for number in range(1, size + 1))
        self.hosts = (CONTROLLER, *self.nodes)
        self.state = state
        self.shared = shared
        foreign = ("SLURM", "SBATCH_", "SRUN_", "SALLOC_", "VH_")
        outside = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        places = {
            "VH_STATE": str(state),
            "VH_SHARED": ":".join(map(str, shared)),
            "RAYHPC_STATE_DIR": f"{state}/rayhpc",
        }
        self.environment = {**outside, **settings, **places}

    # -------------------------------------------------------------------------------------------------- commands

    def sh(
        self, host: str, *argv: str | Path, user: str | None = None, cwd: Path | None = None,
        env: Mapping[str, str] | None = None, timeout: float = 60, check: bool = True,
    ) -> subprocess.CompletedProcess[str]:  # fmt: skip
        """Run a command on a host and return exit code and output; an exit code other than 0 raises if `check`.

        At the time-out the command gets SIGTERM, and HarnessError is raised with what it wrote so far.
        """
        return self._run(_execute(host, argv, user), cwd, env, timeout, check)

    def start(
        self, host: str, *argv: str | Path, user: str | None = None, cwd: Path | None = None,
        env: Mapping[str, str] | None = None, stdout: IO[str] | None = None,
    ) -> subprocess.Popen[str]:  # fmt: skip
        """Start a command on a host and return at once; killing the returned process sends the command SIGTERM.

        Its return code is the command's, if the command is signalled on its host (`sh(host, "kill", pid)`) and not
        here. Standard input is empty; stdout and stderr go to `stdout`, or to the test's own.
        """
        return subprocess.Popen(
            [str(SCRIPT), *_execute(host, argv, user)], cwd=cwd, env={**self.environment, **(env or {})}, text=True,
            stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.STDOUT if stdout else None,
        )  # fmt: skip

    def manage(self, *verb: str) -> str:
        """Run a verb of `virtual_hosts.sh` on this cluster and return what it printed; raises if it fails."""
        return self._run(verb, Path("/"), None, 120, True).stdout

    def _run(
        self, arguments: Sequence[str], cwd: Path | None, env: Mapping[str, str] | None, timeout: float, check: bool
    ) -> subprocess.CompletedProcess[str]:
        # Files and not pipes: a pipe would keep us waiting for every process that inherited its other end.
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            try:
                code = subprocess.run(
                    [SCRIPT, *arguments], cwd=cwd, env={**self.environment, **(env or {})}, timeout=timeout,
                    stdin=subprocess.DEVNULL, stdout=out, stderr=err, check=False,
                ).returncode  # fmt: skip
            except subprocess.TimeoutExpired:
                self._fail(f"no end within {timeout:g} s", arguments, _content(out), _content(err))
            if check and code:
                self._fail(f"exit code {code}", arguments, _content(out), _content(err))
            return subprocess.CompletedProcess(arguments, code, _content(out), _content(err))

    def _fail(self, what: str, arguments: Sequence[str], stdout: str, stderr: str) -> NoReturn:
        raise HarnessError(
            f"{what}: {SCRIPT.name} {' '.join(arguments)}\n"
            f"--- stdout\n{_excerpt(stdout)}\n--- stderr\n{_excerpt(stderr)}\n"
            f"--- Slurm's logs are in {self.state / 'log'} while the cluster is up"
        )

    # ------------------------------------------------------------------------------------------------------ jobs

    def sbatch(
        self, *argv: str | Path, cwd: Path, user: str | None = None, env: Mapping[str, str] | None = None
    ) -> Job:
        """Submit a job from `cwd` (a directory that hosts share) and return its handle; raises if Slurm refuses it.

        Its output goes to `job-ID.out` there. The handle does not end the job: the next test's cluster does.
        """
        command = ("sbatch", "--parsable", "--output=job-%j.out", *argv)
        number = self.sh(CONTROLLER, *command, cwd=cwd, user=user, env=env).stdout.strip()
        return Job(self, number, cwd / f"job-{number}.out")

    # ---------------------------------------------------------------------------------------------------- faults

    def kill(self, host: str) -> None:
        """Power loss: the cable is out before every process ends at once, so that nobody is told."""
        self.manage("kill", host)

    def boot(self, host: str) -> None:
        """Start a killed host again with empty /tmp and /dev/shm; does nothing to a living one."""
        self.manage("boot", host)

    def cut(self, host: str, *interface: str) -> None:
        """Pull the host's cables, or the one of `interface`."""
        self.manage("cut", host, *interface)

    def heal(self, host: str, *interface: str) -> None:
        """Undo `cut`."""
        self.manage("heal", host, *interface)

    def make_whole(self) -> None:
        """End every job, boot, heal, and power-cycle each host that still has processes or files of a test."""
        self.manage("mend")
        if dirty := self.leftovers():
            for host in dirty:
                self.kill(host)
            self.manage("mend")

    # ------------------------------------------------------------------------------------------- what is on a host

    def root(self, host: str) -> Path:
        """The host's file system as a path on this machine: `root("node1") / "tmp"` is node1's own /tmp."""
        if (pid := self._init_pid(host)) is None:
            raise HarnessError(f"host {host} has no power, or is not one of {self.hosts}; boot it first")
        return Path("/proc", pid, "root")

    def alive(self, host: str) -> bool:
        """Whether the host has power."""
        return self._init_pid(host) is not None

    def _init_pid(self, host: str) -> str | None:
        """The machine's pid of the host's PID 1, if that very process lives: start times tell pids apart."""
        try:
            pid, started = (self.state / "run" / f"{host}.pid").read_text().split()
            fields = Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return pid if fields[19] == started and fields[0] not in "ZX" else None

    @property
    def second_home(self) -> Path:
        """The home directory, on all hosts, of the second account: it cannot enter the test's tmp_path."""
        return self.state / "home" / SECOND_ACCOUNT

    def processes(self, host: str) -> list[Process]:
        """Every process of a host but the harness's own (PID 1, munged, slurmd, slurmctld), in its numbering."""
        proc = self.root(host) / "proc"
        found = [_process(entry) for entry in proc.iterdir() if entry.name.isdigit()]
        return sorted((process for process in found if process and not _is_ours(process)), key=lambda p: p.pid)

    def files(self, host: str) -> list[str]:
        """Every path in a host's own /tmp, /var/tmp and /dev/shm, the directories that hosts share left out."""
        shared = {str(path) for top in (*self.shared, self.state) for path in (top, *top.parents)}
        root = self.root(host)
        found = (f"/{path.relative_to(root)}" for private in _PRIVATE for path in _walk(Path(f"{root}{private}")))
        return sorted(path for path in found if path not in shared)

    def leftovers(self) -> dict[str, list[str]]:
        """Processes and files on each living host that has any: {host: ["process 12: python x.py", "/tmp/y"]}."""
        return {host: left for host in self.hosts if self.alive(host) and (left := self._left_on(host))}

    def assert_nothing_left(self, timeout: float = 5) -> None:
        """Wait until no host has processes or files of a test; past the deadline name every one of them."""
        poll(lambda: None if self.leftovers() else True, timeout, lambda: f"nothing left, found {self.leftovers()}")

    def _left_on(self, host: str) -> list[str]:
        processes = [f"process {process.pid}: {' '.join(process.argv)}" for process in self.processes(host)]
        return processes + self.files(host)


@dataclass(frozen=True)
class Job:
    """A submitted batch job; every method raises HarnessError where Slurm does not know the job or does not answer."""

    cluster: SlurmCluster
    number: str
    output_file: Path

    def show(self) -> dict[str, str]:
        """The job as `scontrol show job` has it: {"JobState": "RUNNING", …}; words behind a space are lost."""
        line = self.cluster.sh(CONTROLLER, "scontrol", "-o", "show", "job", self.number).stdout
        return dict(re.findall(r"(\S+?)=(\S*)", line))

    @property
    def state(self) -> str:
        """Slurm's own word for the state."""
        return self.show()["JobState"]

    @property
    def output(self) -> str:
        """What the job has written so far."""
        return self.output_file.read_text() if self.output_file.exists() else ""

    def wait(self, timeout: float = 60) -> Ended:
        """Wait for the job's end (its processes' end included) and say how it ended."""
        show = poll(lambda: self._show_if(FINAL_STATES), timeout, lambda: self._describe("a final state"))
        code, signal = map(int, show["ExitCode"].split(":"))
        return Ended(show["JobState"], code, signal, self.output)

    def wait_state(self, *states: str, timeout: float = 30) -> str:
        """Wait until the job is in one of `states`, and return it: a second look may find the next one."""
        return poll(lambda: self._show_if(states), timeout, lambda: self._describe(" or ".join(states)))["JobState"]

    def wait_output(self, text: str, timeout: float = 30, times: int = 1) -> None:
        """Wait until `text` is in the job's output, `times` times."""
        poll(
            lambda: True if self.output.count(text) >= times else None,
            timeout,
            lambda: self._describe(f"{text!r} in its output, {times} times"),
        )

    def cancel(self, *options: str) -> None:
        """Run scancel with `options`, e.g. `--signal=USR1 --batch`."""
        self.cluster.sh(CONTROLLER, "scancel", *options, self.number)

    def requeue(self) -> None:
        """Requeue the job and start it again at once: Slurm itself would hold it for about two minutes."""
        self.cluster.sh(CONTROLLER, "scontrol", "requeue", self.number)
        self.wait_state("PENDING")
        self.start_now()

    def start_now(self) -> None:
        """Start a requeued job that Slurm still holds."""
        # slurmd refuses a job's credential of the second in which it ended the job, and the job would be FAILED.
        ended = int(time.time())
        poll(lambda: True if int(time.time()) > ended else None, 5, lambda: "the next second")
        self.cluster.sh(CONTROLLER, "scontrol", "update", f"jobid={self.number}", "StartTime=now")

    def _show_if(self, states: Sequence[str]) -> dict[str, str] | None:
        show = self.show()
        return show if show["JobState"] in states else None

    def _describe(self, wanted: str) -> str:
        return f"job {self.number} wanted {wanted}, is {self.state}; its output is\n{_excerpt(self.output)}"


def _execute(host: str, argv: Sequence[str | Path], user: str | None) -> list[str]:
    return ["exec", *(["-u", user] if user else []), host, *map(str, argv)]


def _excerpt(text: str, length: int = 2000) -> str:
    return text if len(text) <= 2 * length else f"{text[:length]}\n[…]\n{text[-length:]}"


def _content(file: IO[str]) -> str:
    file.seek(0)
    return file.read()


def _process(entry: Path) -> Process | None:
    """Read one /proc/PID; None if that process has just ended, or has ended and waits for a parent outside."""
    try:
        argv = (entry / "cmdline").read_bytes().rstrip(b"\0 ")
        name, _, fields = (entry / "stat").read_text().partition("(")[2].rpartition(")")
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, parent = fields.split()[:2]
    # A command whose caller on the machine was killed is reaped by the machine's PID 1, which may take seconds.
    if state == "Z" and parent == "0":
        return None
    words = argv.decode(errors="replace").split("\0") if argv else [f"[{name}]"]
    return Process(int(entry.name), tuple(words))


def _is_ours(process: Process) -> bool:
    # slurmctld's helper calls itself ": slurmscriptd"; a step's "slurmstepd: [7.0]" is a job's and counts as such.
    return process.pid == 1 or Path(process.argv[0].lstrip(": ")).name in _DAEMONS


def _walk(folder: Path) -> Iterator[Path]:
    """Every path below `folder` on its own file system; what vanishes meanwhile is left out."""
    with contextlib.suppress(FileNotFoundError):
        device = folder.stat().st_dev
        for entry in folder.iterdir():
            yield entry
            if entry.is_dir() and not entry.is_symlink() and entry.stat().st_dev == device:
                yield from _walk(entry)
