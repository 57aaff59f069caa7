"""A command under its keeper, with real processes: whatever ends whom, nothing is left.

Commands are shells, since these start in a millisecond. What a test starts is ended by its fixture, by pid.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from rayhpc.processes import children as proc
from rayhpc.processes import keeper
from rayhpc.processes.children import Child, Order, until_gone
from rayhpc.processes.keeper_process import Keeping
from tests.unit.making import until

INT, TERM, USR1, KILL = int(signal.SIGINT), int(signal.SIGTERM), int(signal.SIGUSR1), int(signal.SIGKILL)
FOR_EVER = "while :; do sleep 0.02; done"
# A shell's trap waits for its foreground command: short sleeps keep it quick.
STUBBORN = f"trap '' INT TERM; echo ready; {FOR_EVER}"
# A grandchild of its own session whose parent has gone at once: what a daemon does.
DAEMON = (
    r"""setsid sh -c 'sh -c "echo \$\$ >> pids; exec sleep 1000" & :'; setsid sh -c 'sleep 1000 & echo $! >> pids'"""
)


def living(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except OSError:
        return False
    return state not in (b"Z", b"X")


def gone(*pids: int) -> bool:
    return until(lambda: not any(map(living, pids)))


@dataclass
class Yard:
    """A directory in which commands run; whoever is started there is gone afterwards."""

    place: Path
    marker: str = field(default_factory=lambda: f"RAYHPC_NODE=test-{uuid.uuid4().hex}/0")
    children: list[Child] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        name, _, value = self.marker.partition("=")
        return {"PATH": os.environ["PATH"], name: value}

    def start(self, *argv: str, stdout: int = -1, **changes: Any) -> Child:
        descriptor = os.open(self.place / "out", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        values: dict[str, Any] = {"argv": argv, "env": self.environment, "cwd": str(self.place)}
        try:
            child = Child(Keeping("test/0", descriptor if stdout < 0 else stdout, descriptor))
        finally:
            os.close(descriptor)
        self.children.append(child)
        child.run(Order(**{**values, **changes}))
        return child

    def keeper(self) -> Child:
        """One that waits for its order."""
        self.children.append(Child(Keeping("test/0", 1, 2)))
        return self.children[-1]

    def shell(self, script: str, *arguments: str, **changes: Any) -> Child:
        return self.start("sh", "-c", script, "sh", *arguments, **changes)

    @property
    def output(self) -> str:
        return (self.place / "out").read_text() if (self.place / "out").exists() else ""

    def said(self, text: str) -> bool:
        return until(lambda: text in self.output)

    def pids(self, count: int) -> list[int]:
        """What commands wrote into `pids`."""
        file = self.place / "pids"
        assert until(lambda: file.exists() and len(file.read_text().split("\n")) > count)
        return [int(line) for line in file.read_text().split()]

    def clean(self) -> None:
        for child in self.children:
            child.end()
            child.end()
        left = until_gone(self.children, 10.0)
        for child in left:
            keeper.send(child.keeper_pid, signal.SIGKILL)
        proc.sweep(self.marker, frozenset({os.getpid()}))
        assert not left


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    made = Yard(tmp_path)
    yield made
    made.clean()


def ended(child: Child) -> Child:
    assert until_gone([child], 10.0) == []
    return child


def result(child: Child) -> tuple[int | None, int, int]:
    """Exit code, killed, left."""
    ended(child)
    return child.code, child.killed, child.left


def test_a_command_that_kills_its_keeper(yard: Yard) -> None:
    """It dies with it, and how the keeper ended is told apart from how the command did."""
    child = ended(yard.shell("kill -KILL $PPID; sleep 60"))
    assert (child.code, child.keeper_code) == (-signal.SIGKILL, -signal.SIGKILL)
    child = ended(yard.shell("kill -KILL $$"))
    assert (child.code, child.keeper_code) == (-signal.SIGKILL, 0)


# The command's own end.


@pytest.mark.parametrize("code", [0, 7, 255])
def test_the_exit_code_is_the_commands(yard: Yard, code: int) -> None:
    assert result(yard.shell(f"exit {code}")) == (code, 0, 0)


@pytest.mark.parametrize("signum", [TERM, KILL, int(signal.SIGSEGV), int(signal.SIGRTMIN) + 3])
def test_death_by_a_signal_is_its_negative(yard: Yard, signum: int) -> None:
    assert result(yard.shell(f"ulimit -c 0; kill -{signum} $$")) == (-signum, 0, 0)


def test_while_it_runs_there_is_no_code_and_its_pid_is_known(yard: Yard) -> None:
    os.mkfifo(yard.place / "fifo")
    child = yard.shell("echo $$; read x < fifo")
    assert yard.said("\n")
    assert until(lambda: child.poll() or child.pid)
    assert (child.code, child.gone, child.failed) == (None, False, None)
    assert child.pid == int(yard.output)
    (yard.place / "fifo").write_text("go\n")
    assert result(child) == (0, 0, 0)


def test_output_goes_where_the_order_says_and_stays_open_for_the_owner(yard: Yard) -> None:
    reading, writing = os.pipe()
    ended(yard.shell("echo out; echo err >&2", stdout=writing))
    os.write(writing, b"owner\n")
    os.close(writing)
    assert os.read(reading, 100) == b"out\nowner\n"
    os.close(reading)
    assert yard.output == "err\n"


def test_standard_input_is_empty(yard: Yard) -> None:
    assert result(yard.shell("cat; exit 3")) == (3, 0, 0)


def test_the_environment_is_the_orders_and_nothing_else(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OF_THE_OWNER", "1")
    ended(yard.start(str(shutil.which("env"))))
    assert set(yard.output.splitlines()) == {f"{name}={value}" for name, value in yard.environment.items()}


@pytest.mark.parametrize("signum", [INT, TERM, int(signal.SIGHUP), USR1])
def test_signals_that_the_keeper_catches_are_the_commands_to_die_of(yard: Yard, signum: int) -> None:
    assert result(yard.shell(f"kill -{signum} $$; exit 0")) == (-signum, 0, 0)


def test_signals_that_are_blocked_in_the_owner_reach_the_command(yard: Yard) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        child = yard.start("sleep", "1000")  # a shell would unblock them itself
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    child.signal(INT)
    assert until(child.poll) and child.code == -INT


def test_a_command_ignores_what_the_order_says(yard: Yard) -> None:
    child = yard.shell("kill -USR1 $$; kill -INT $$; exit 3", ignored=(USR1,))
    assert result(child)[0] == -INT


# What cannot be executed.


@pytest.mark.parametrize(
    ("content", "mode", "number"),
    [
        ("#!/bin/sh\n", 0o600, errno.EACCES),
        ("no program", 0o700, errno.ENOEXEC),
        ("#!/no/such/interpreter\n", 0o700, errno.ENOENT),
        (None, 0, errno.ENOENT),
    ],
)
def test_a_command_that_cannot_be_executed(yard: Yard, content: str | None, mode: int, number: int) -> None:
    file = yard.place / "command"
    if content is not None:
        file.write_text(content)
        file.chmod(mode)
    child = ended(yard.start(str(file)))
    assert child.poll()
    assert child.failed == (number, os.strerror(number))
    assert child.code is None


def test_a_directory_that_is_not_there(yard: Yard) -> None:
    child = ended(yard.shell("exit 0", cwd=str(yard.place / "nowhere")))
    assert child.failed is not None
    assert child.failed[0] == errno.ENOENT


# Any bytes.


def test_hostile_names(yard: Yard, hostile: str) -> None:
    (yard.place / hostile).mkdir()
    made = {**yard.environment, "NAME": hostile}
    child = yard.shell('printf "%s\\n" "$1" "$NAME" "${PWD##*/}"', hostile, env=made, cwd=str(yard.place / hostile))
    assert result(child) == (0, 0, 0)
    assert yard.output == f"{hostile}\n" * 3


def test_bytes_that_are_no_text(yard: Yard) -> None:
    raw = bytes(range(1, 256))
    text = os.fsdecode(raw)
    ended(
        yard.shell(
            'printf "%s" "$1" > argument; printf "%s" "$X" > variable', text, env={**yard.environment, "X": text}
        )
    )
    assert (yard.place / "argument").read_bytes() == raw
    assert (yard.place / "variable").read_bytes() == raw


def test_200_kilobytes_of_arguments(yard: Yard) -> None:
    """More than a pipe holds, and more than the keeper reads at once."""
    words = ["é" * 25_000, "x" * 100_000, "\x01" * 50_000]
    ended(yard.shell('printf "%s" "$@" > arguments', *words))
    assert (yard.place / "arguments").read_text() == "".join(words)


def test_too_many_arguments_are_told(yard: Yard) -> None:
    child = ended(yard.shell("exit 0", "x" * 300_000))
    assert child.failed is not None
    assert child.failed[0] == errno.E2BIG


# Signals.


def test_a_signal_reaches_the_command_alone(yard: Yard) -> None:
    child = yard.shell(f"sleep 1000 & p=$!; trap 'kill -0 $p && exit 3; exit 4' USR1; echo ready; {FOR_EVER}")
    assert yard.said("ready")
    child.signal(USR1)
    assert ended(child).code == 3


def test_polite_signals_do_not_end_the_keeper(yard: Yard) -> None:
    child = yard.shell(f"trap 'exit 5' USR1; echo ready; {FOR_EVER}")
    assert yard.said("ready")
    for signum in (INT, TERM, int(signal.SIGHUP), USR1):
        os.kill(child.keeper_pid, signum)
    child.signal(USR1)
    assert result(child)[0] == 5


# Descendants.


def test_daemons_of_a_command_that_ends_by_itself_are_gone(yard: Yard) -> None:
    child = yard.shell(f"{DAEMON}; while [ $(wc -l < pids) -lt 2 ]; do sleep 0.01; done; exit 4")
    code, killed, left = result(child)
    assert (code, left) == (4, 0)
    assert killed >= 2
    assert not any(map(living, yard.pids(2)))


def test_daemons_of_a_command_that_is_ended_are_gone(yard: Yard) -> None:
    child = yard.shell(f"{DAEMON}; {STUBBORN}")
    pids = yard.pids(2)
    assert yard.said("ready")
    child.end()
    assert result(child)[0] == -KILL
    assert gone(*pids)


def test_what_is_born_while_the_tree_dies_dies_as_well(yard: Yard) -> None:
    """A process that replaces itself as quickly as it can, always out of reach of the last listing."""
    script = yard.place / "hydra"
    script.write_text('#!/bin/sh\necho $$ >> pids\nsleep 0.01\nsetsid "$0" &\n')
    script.chmod(0o700)
    child = yard.shell("setsid ./hydra; sleep 1000")
    yard.pids(5)
    child.end()
    ended(child)
    assert child.left == 0
    assert gone(*yard.pids(5))


# A process whose main thread has ended while another thread lives: Linux shows it as a zombie, and it has children.
# This is what a raylet, with its 50 threads, looks like while it dies.
LEADERLESS = """
import ctypes, os, signal, subprocess, sys, threading, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
with open("pids", "w") as file:
    print(os.getpid(), child.pid, file=file)
threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
SYS_EXIT = {"x86_64": 60, "aarch64": 93}[os.uname().machine]
ctypes.CDLL(None).syscall(SYS_EXIT, 0)
"""


def test_the_children_of_a_process_without_a_main_thread_are_gone(yard: Yard) -> None:
    child = yard.shell('"$@" & while :; do sleep 0.02; done', sys.executable, "-c", LEADERLESS)
    pids = yard.pids(1)
    assert until(lambda: not living(pids[0]))
    child.end()
    assert result(child)[2] == 0
    assert not carriers(yard.marker)


# Members fork and leave their session and parent, hear neither TERM nor INT, and end when they like. Each fork takes
# a byte from a pipe: there are never more than so many, whatever becomes of the keeper; none lives for a minute.
FORKING = """
import os, signal, sys, time
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)
reading, writing = os.pipe()
os.write(writing, b"." * int(sys.argv[1]))
os.close(writing)
pause = float(sys.argv[2])
signal.alarm(40)
while os.read(reading, 1):
    if os.fork() == 0:
        os.setsid()
        signal.alarm(40)
        if os.fork():
            os._exit(0)
        signal.alarm(40)
    time.sleep(pause)
time.sleep(40)
"""


def test_a_tree_that_forks_while_it_is_ended_is_gone(yard: Yard) -> None:
    child = yard.start(sys.executable, "-c", FORKING, "200", "0.05", ladder=((TERM, 0.2),), linger=0.2)
    assert until(lambda: len(keeper.descendants(child.keeper_pid)) > 10)
    child.end()
    assert result(child)[2] == 0
    assert not carriers(yard.marker)


# One process at a time, which forks the next and ends: whoever looks for it finds one that has gone.
RELAY = """
import os
for _ in range(3000):
    if os.fork():
        os._exit(0)
    os.setsid()
os.execvp("sleep", ["sleep", "40"])
"""


def test_a_relay_of_short_lived_processes_is_gone(yard: Yard) -> None:
    child = yard.start(sys.executable, "-c", RELAY)
    assert result(child)[2] == 0
    assert not carriers(yard.marker)


def test_the_sweep_ends_what_forks_while_it_looks(yard: Yard) -> None:
    child = yard.start(sys.executable, "-c", FORKING, "200", "0.02")
    assert until(lambda: len(keeper.descendants(child.keeper_pid)) > 10)
    keeper.send(child.keeper_pid, KILL)
    assert proc.sweep(yard.marker, frozenset({os.getpid()})) > 10
    assert not carriers(yard.marker)


def carriers(marker: str) -> list[Path]:
    """The processes that carry a marker."""
    return [process for process in Path("/proc").glob("[0-9]*") if carries(process, marker)]


def carries(process: Path, marker: str) -> bool:
    try:
        return marker.encode() in (process / "environ").read_bytes().split(b"\0")
    except OSError:
        return False


def test_what_is_left_behind_may_say_goodbye(yard: Yard) -> None:
    lingering = f"setsid sh -c 'trap \"echo bye; exit\" TERM; echo ready; {FOR_EVER}' &"
    child = yard.shell(f"{lingering} while ! grep -q ready out; do sleep 0.01; done", linger=10.0)
    code, killed, _ = result(child)
    assert (code, "bye" in yard.output) == (0, True)
    assert killed == 0


def test_what_does_not_leave_in_time_is_killed(yard: Yard) -> None:
    child = yard.shell(f'setsid sh -c "{STUBBORN}" & while ! grep -q ready out; do sleep 0.01; done', linger=0.2)
    code, killed, _ = result(child)
    assert code == 0
    assert killed >= 1


def test_ending_one_command_leaves_the_other(yard: Yard) -> None:
    first = yard.shell(f"echo first; {FOR_EVER}")
    second = yard.shell(f"trap 'exit 9' USR1; echo second; {FOR_EVER}")
    assert yard.said("first")
    assert yard.said("second")
    first.end()
    ended(first)
    assert not second.poll()
    second.signal(USR1)
    assert ended(second).code == 9


def test_descendants_parents_first_and_without_the_spared(yard: Yard) -> None:
    child = yard.shell("sh -c 'sleep 1000 & echo $$ $! >> tree; wait' & wait")
    tree = yard.place / "tree"
    assert until(lambda: tree.exists() and tree.read_text().endswith("\n"))
    middle, last = map(int, tree.read_text().split())
    assert until(lambda: child.poll() or child.pid > 0)  # the keeper may report it after the shell has written
    assert keeper.descendants(child.keeper_pid) == [child.pid, middle, last]
    assert keeper.descendants(child.keeper_pid, frozenset({middle})) == [child.pid]
    assert keeper.descendants(last) == []


# The ladder.

ECHOING = f"trap 'echo got INT' INT; trap 'echo got TERM' TERM; echo ready; {FOR_EVER}"


def test_the_ladder_is_climbed_to_its_end(yard: Yard) -> None:
    child = yard.shell(ECHOING, ladder=((INT, 0.3), (TERM, 0.3)))
    assert yard.said("ready")
    child.end()
    assert result(child)[0] == -KILL
    assert yard.output.split("\n")[1:3] == ["got INT", "got TERM"]


def test_the_ladder_is_climbed_no_further_than_needed(yard: Yard) -> None:
    child = yard.shell(
        f"trap 'exit 5' INT; trap 'exit 6' TERM; echo ready; {FOR_EVER}", ladder=((INT, 60.0), (TERM, 60.0))
    )
    assert yard.said("ready")
    child.end()
    assert result(child)[0] == 5


def test_without_a_ladder_the_command_is_killed(yard: Yard) -> None:
    child = yard.shell(ECHOING)
    assert yard.said("ready")
    child.end()
    assert result(child)[0] == -KILL
    assert "got" not in yard.output


def test_a_second_end_hurries(yard: Yard) -> None:
    child = yard.shell(STUBBORN, ladder=((INT, 60.0), (TERM, 60.0)), linger=60.0)
    assert yard.said("ready")
    child.end()
    assert until_gone([child], 0.2) == [child]
    child.end()
    assert until_gone([child], 2.0) == []
    assert child.code == -KILL


def test_two_ends_at_once_hurry(yard: Yard) -> None:
    child = yard.shell(STUBBORN, ladder=((INT, 60.0),), linger=60.0)
    assert yard.said("ready")
    child.end()
    child.end()
    assert until_gone([child], 2.0) == []
    assert child.code == -KILL


def test_a_stopped_command_is_ended_as_well(yard: Yard) -> None:
    child = yard.shell(f"echo ready; kill -STOP $$; {FOR_EVER}", ladder=((TERM, 0.1),))
    assert yard.said("ready")
    child.end()
    assert ended(child).code in (-TERM, -KILL)


def test_a_stopped_keeper_ends_its_command_as_well(yard: Yard) -> None:
    child = yard.shell(f"echo ready; {FOR_EVER}")
    assert yard.said("ready")
    keeper.send(child.keeper_pid, signal.SIGSTOP)
    child.end()
    assert ended(child).code == -KILL


def test_end_and_signal_after_the_end_do_nothing(yard: Yard) -> None:
    child = ended(yard.shell("exit 3"))
    child.end()
    child.signal(TERM)
    assert child.poll()
    assert result(child) == (3, 0, 0)


# Owners that die.

OWNER = """
import json, os, select, sys
from rayhpc.processes.keeper_process import Keeping
from rayhpc.processes.children import Child, Order, until_gone
order = json.loads(sys.argv[1])
remove = order.pop("remove", [])
child = Child(Keeping("test/0", 1, 2))
child.run(Order(env=dict(os.environ), **order))
for directory in remove:
    child.answer_for(directory)
while not child.poll():
    select.select([child], [], [])
child.end()
until_gone([child], 60.0)
print("code", child.code, flush=True)
"""


def owner(yard: Yard, script: str, *wrapper: str, **order: Any) -> subprocess.Popen[bytes]:
    """A process that keeps a command in our place."""
    text = json.dumps({"argv": ["sh", "-c", script], "cwd": str(yard.place), **order})
    with (yard.place / "out").open("ab") as output:
        return subprocess.Popen(
            [*wrapper, sys.executable, "-c", OWNER, text],
            stdout=output,
            stderr=output,
            env={**os.environ, **yard.environment},
            start_new_session=True,
        )


def test_a_killed_owner_leaves_nothing(yard: Yard) -> None:
    private = yard.place / "two words"
    (private / "session").mkdir(parents=True)
    (private / "session" / "token").write_text("x")
    (yard.place / "kept").mkdir()
    (yard.place / "link").symlink_to(yard.place / "kept")
    script = f"echo $PPID $$ | tr ' ' '\\n' >> pids; {DAEMON}; {STUBBORN}"
    process = owner(
        yard,
        script,
        remove=[str(private), str(yard.place / "nowhere"), str(yard.place / "link")],
        ladder=[[INT, 60.0]],
        orphan_ladder=[[TERM, 0.1]],
    )
    pids = yard.pids(4)
    assert yard.said("ready")
    process.kill()
    process.wait()
    assert gone(*pids)
    assert until(lambda: not private.exists() and not (yard.place / "link").is_symlink())
    assert (yard.place / "kept").exists()


def test_an_orphan_climbs_its_own_ladder(yard: Yard) -> None:
    process = owner(yard, ECHOING, ladder=[[INT, 60.0]], orphan_ladder=[[TERM, 0.1]])
    assert yard.said("ready")
    process.kill()
    process.wait()
    assert yard.said("got TERM")
    assert "got INT" not in yard.output


def test_an_owner_that_ends_in_order_removes_for_itself(yard: Yard) -> None:
    private = yard.place / "private"
    private.mkdir()
    assert owner(yard, "exit 3", remove=[str(private)]).wait(10) == 0
    assert yard.said("code 3")
    assert private.exists()


def test_an_owner_with_closed_standard_input(yard: Yard) -> None:
    process = owner(yard, "echo works; exit 3", "sh", "-c", 'exec "$@" <&-', "sh")
    assert process.wait(10) == 0
    assert yard.output == "works\ncode 3\n"


# Keepers that die.


def test_a_killed_keeper_takes_the_command_along_and_the_sweep_finds_the_rest(yard: Yard) -> None:
    child = yard.shell(f"echo $$ >> pids; {DAEMON}; {STUBBORN}")
    pids = yard.pids(3)
    assert yard.said("ready")
    os.kill(child.keeper_pid, KILL)
    assert ended(child).code == -KILL
    assert child.poll()
    assert gone(pids[0])
    assert [living(pid) for pid in pids[1:]] == [True, True]
    assert proc.sweep(yard.marker, frozenset({os.getpid()})) >= 2
    assert gone(*pids)


def test_telling_a_dead_keeper_is_no_error(yard: Yard) -> None:
    child = yard.shell(FOR_EVER)
    os.kill(child.keeper_pid, KILL)
    ended(child)
    child.signal(TERM)
    child.end()
    assert child.gone


def test_a_dead_keeper_leaves_no_words_at_the_end(yard: Yard) -> None:
    script = (
        "import os, signal\n"
        "from rayhpc.processes.keeper_process import Keeping\n"
        "from rayhpc.processes.children import Child, Order, until_gone\n"
        "child = Child(Keeping('t', 1, 2))\n"
        "child.run(Order(argv=['sleep', '1000'], env=dict(os.environ)))\n"
        "os.kill(child.keeper_pid, signal.SIGKILL)\n"
        "until_gone([child], 10.0)\n"
        "child.end()\n"
    )
    environ = {**os.environ, **yard.environment}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env=environ)
    assert (done.returncode, done.stderr) == (0, "")


# What is made for the command.


MAKER = """
import os, sys
from rayhpc.processes.keeper_process import Keeping
from rayhpc.processes.children import Child
child = Child(Keeping("test/0", 1, 2))
child.make(sys.argv[1])
print(child.keeper_pid, flush=True)
os.read(0, 1)
"""


def test_what_is_made_goes_with_an_owner_that_is_killed(yard: Yard) -> None:
    private = yard.place / "private"
    command = [sys.executable, "-c", MAKER, str(private)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict(os.environ)) as made:
        assert made.stdout is not None
        keeper_pid = int(made.stdout.readline())
        assert private.stat().st_mode & 0o777 == 0o700
        made.kill()
    assert until(lambda: not private.exists())
    assert gone(keeper_pid)


def test_what_is_made_stays_while_the_command_runs_and_after_it(yard: Yard) -> None:
    child = yard.keeper()
    private = yard.place / "private"
    child.make(str(private))
    child.run(Order(argv=["true"], env=yard.environment))
    assert until(child.poll)
    child.end()
    assert ended(child).code == 0
    assert private.is_dir()


def test_what_is_made_for_a_command_that_runs_goes_with_an_owner_that_is_killed(yard: Yard) -> None:
    private = yard.place / "private"
    script = MAKER.replace("child.make", "child.run(Order(argv=['sleep', '1000'], env={}))\nchild.make")
    command = [sys.executable, "-c", script.replace("import Child", "import Child, Order"), str(private)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict(os.environ)) as made:
        assert made.stdout is not None
        keeper_pid = int(made.stdout.readline())
        assert private.is_dir()
        made.kill()
    assert until(lambda: not private.exists())
    assert gone(keeper_pid)


WRITER = """
import contextlib, os, sys, time
end = time.monotonic() + 2
while time.monotonic() < end:
    with contextlib.suppress(OSError):
        os.mkdir(sys.argv[1] + "/logs")
    for number in range(200):
        with contextlib.suppress(OSError):
            open(f"{sys.argv[1]}/logs/{number}", "w").close()
"""


def test_what_is_made_goes_although_somebody_still_writes_into_it(yard: Yard) -> None:
    """As a driver does, whose keeper takes a moment to end it."""
    private = yard.place / "private"
    made = subprocess.Popen([sys.executable, "-c", MAKER, str(private)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with made:
        assert made.stdout is not None
        keeper_pid = int(made.stdout.readline())
        with subprocess.Popen([sys.executable, "-c", WRITER, str(private)]) as writer:
            assert until((private / "logs" / "199").exists)
            made.kill()
            writer.wait()
    assert gone(keeper_pid)
    assert not private.exists()


def test_what_is_made_goes_when_command_and_owner_are_killed(yard: Yard) -> None:
    """The command first, its owner long after: its keeper has nothing else left to keep."""
    private = yard.place / "private"
    script = MAKER.replace("child.make", "child.run(Order(argv=['sleep', '1000'], env={}))\nchild.make")
    script = script.replace("import Child", "import Child, Order").replace("keeper_pid", "keeper_pid, child.pid")
    command = [sys.executable, "-c", script, str(private)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict(os.environ)) as made:
        assert made.stdout is not None
        keeper_pid, pid = map(int, made.stdout.readline().split())
        os.kill(pid, KILL)
        assert gone(pid)
        assert not until(lambda: not living(keeper_pid), 1.0)
        assert private.is_dir()
        made.kill()
    assert until(lambda: not private.exists())
    assert gone(keeper_pid)


def test_an_end_that_comes_with_an_order_in_vain_is_heard(yard: Yard) -> None:
    """All in one piece, as from an owner who was quicker than his keeper."""
    private = yard.place / "private"
    order = {"argv": ["/nowhere/at/all"], "env": {}, "cwd": "/", "stdout": 1, "stderr": 2, "ignored": [], "fed": False}
    lines = [{"make": str(private)}, order, {"end": True}]
    text = "".join(json.dumps(line) + "\n" for line in lines).encode()
    with subprocess.Popen(
        [sys.executable, "-I", "-S", keeper.__file__, "test/0"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(text)
        process.stdin.flush()
        assert b'"gone"' in process.stdout.read()  # until the keeper ends, with its standard input still open
    assert private.is_dir()


def test_what_is_made_stays_answered_for_where_the_command_cannot_be_executed(yard: Yard) -> None:
    child = yard.keeper()
    private = yard.place / "private"
    child.make(str(private))
    child.run(Order(argv=["/nowhere/at/all"], env=yard.environment))
    child.signal(TERM)
    assert until(child.poll)
    assert child.failed == (errno.ENOENT, "No such file or directory")
    assert private.is_dir()
    child.discard()
    ended(child)
    assert not private.exists()


def test_a_command_that_is_discarded_takes_along_what_was_made_for_it(yard: Yard) -> None:
    child = yard.shell(FOR_EVER)
    private = yard.place / "private"
    child.make(str(private))
    child.discard()
    assert ended(child).code == -KILL
    assert not private.exists()


def test_what_cannot_be_made_is_no_failure_of_the_command(yard: Yard) -> None:
    child = yard.shell("cat", fed=True)
    with pytest.raises(FileExistsError):
        child.make(str(yard.place))
    child.feed("")
    assert ended(child).failed is None
    assert child.code == 0


def test_a_keeper_has_the_name_that_it_is_given(yard: Yard) -> None:
    child = yard.shell(FOR_EVER)
    child.name("rh-01234567-0")
    assert until(lambda: Path(f"/proc/{child.keeper_pid}/comm").read_text() == "rh-01234567-0\n")


def test_without_a_command_the_end_unmakes(yard: Yard) -> None:
    child = yard.keeper()
    private = yard.place / "private"
    child.make(str(private))
    (private / "token").write_text("secret")
    child.end()
    ended(child)
    assert not private.exists()


def test_what_is_there_already_is_not_made_and_not_removed(yard: Yard) -> None:
    child = yard.keeper()
    with pytest.raises(FileExistsError) as caught:
        child.make(str(yard.place))
    assert caught.value.filename == str(yard.place)
    child.end()
    ended(child)
    assert yard.place.is_dir()


def test_a_keeper_that_was_killed_makes_nothing(yard: Yard) -> None:
    child = yard.keeper()
    os.kill(child.keeper_pid, KILL)
    with pytest.raises(TimeoutError):
        child.make(str(yard.place / "private"))
    assert not (yard.place / "private").exists()


# Commands that are fed.


def test_a_command_is_fed_and_then_finds_the_end(yard: Yard) -> None:
    child = yard.shell("cat; echo over", fed=True)
    child.feed("a word 'ü'\nanother")  # most often in one piece with the order
    assert result(ended(child)) == (0, 0, 0)
    assert yard.output == "a word 'ü'\nanotherover\n"


def test_a_command_that_waits_for_its_food_is_ended(yard: Yard) -> None:
    child = yard.shell("echo ready; cat", fed=True)
    assert yard.said("ready")
    child.end()
    assert ended(child).code == -KILL


def test_food_for_a_command_that_has_gone_is_lost(yard: Yard) -> None:
    child = yard.shell("exec <&-; echo ready; sleep 0.2; exit 3", fed=True)
    assert yard.said("ready")
    child.feed("too late")
    assert ended(child).code == 3


def test_instructions_that_come_with_the_order_are_obeyed(yard: Yard) -> None:
    child = yard.shell(FOR_EVER)
    child.end()
    assert ended(child).code == -KILL


# The sweep.


def test_the_sweep_spares_others_and_its_own(yard: Yard) -> None:
    child = yard.shell(f"echo $$ >> pids; {FOR_EVER}")
    (pid,) = yard.pids(1)
    assert proc.sweep(yard.marker + "0", frozenset()) == 0
    assert proc.sweep(yard.marker[:-1], frozenset()) == 0
    helpers = frozenset(keeper.descendants(child.keeper_pid))
    assert pid in helpers
    assert living(pid)


def test_the_sweep_spares_the_pids_it_is_given(yard: Yard) -> None:
    child = yard.start("sleep", "1000")
    assert until(lambda: child.poll() or child.pid)
    assert until(lambda: yard.marker.encode() in Path(f"/proc/{child.pid}/environ").read_bytes().split(b"\0"))
    assert proc.sweep(yard.marker, frozenset({child.pid})) == 0
    assert proc.sweep(yard.marker, frozenset()) == 1
    assert ended(child).code == -KILL


# Waiting.


def test_until_gone_names_those_that_are_not_done(yard: Yard) -> None:
    quick, slow = yard.shell("exit 0"), yard.shell(FOR_EVER)
    ended(quick)
    assert until_gone([quick, slow], 0.1) == [slow]
    assert until_gone([], 0.0) == []


def test_sending_to_nobody_is_false(yard: Yard) -> None:
    child = yard.shell("exit 0")
    ended(child)
    assert not keeper.send(child.pid, 0)


def run_alone(work: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_subreaper_inherits_orphans() -> None:
    def work() -> None:
        keeper.become_subreaper()
        subprocess.run(["sh", "-c", "(sleep 0.05; exit 6) & exit 5"], check=False)
        ends: list[int] = []

        def inherited() -> bool:
            ends.extend(code for _, code in keeper.reap())
            return bool(ends)

        assert until(inherited)
        assert ends == [6]

    assert run_alone(work) == 0


# Core files.


def test_no_core_files_and_the_hard_limit_stays() -> None:
    """What a child may raise again for its own code."""
    program = (
        "import resource as r, subprocess; from rayhpc.processes.keeper import write_no_core_files\n"
        "hard = r.getrlimit(r.RLIMIT_CORE)[1]; r.setrlimit(r.RLIMIT_CORE, (hard, hard)); write_no_core_files()\n"
        "assert r.getrlimit(r.RLIMIT_CORE) == (0, hard)\n"
        "print(subprocess.run(['sh', '-c', 'ulimit -S -c'], capture_output=True, text=True).stdout.strip())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"


# The last word.

SPEAKER = """
import os, sys
from pathlib import Path
from rayhpc.processes.keeper_process import Keeping
from rayhpc.processes.children import Child, Order, until_gone
when, room, file = sys.argv[1:]
child = Child(Keeping("test/0", 1, 2))
if when != "without a command":
    child.run(Order(argv=["sleep", "1000"], env={}))
child.leave_word(Path(room), Path(file), "killed")
print(child.keeper_pid, flush=True)
os.read(0, 1)
child.end()
until_gone([child], 10.0)
"""


def speaker(yard: Yard, when: str) -> tuple[subprocess.Popen[bytes], int]:
    """An owner that has left its word, and the keeper."""
    command = [sys.executable, "-c", SPEAKER, when, str(yard.place / "room"), str(yard.place / "word")]
    made = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict(os.environ))
    assert made.stdout is not None
    return made, int(made.stdout.readline())


def written(yard: Yard) -> dict[str, str]:
    found = ((name, yard.place / name) for name in ("room", "word"))
    return {name: file.read_text() for name, file in found if file.exists()}


@pytest.mark.parametrize("when", ["with a command", "without a command"])
def test_the_word_of_an_owner_that_is_killed_is_written_into_its_room(yard: Yard, when: str) -> None:
    (yard.place / "room").write_text("x" * 1000)
    owner, keeper_pid = speaker(yard, when)
    with owner:
        owner.kill()
    assert gone(keeper_pid)
    assert written(yard) == {"word": "killed"}


def test_an_owner_that_has_spoken_is_not_corrected(yard: Yard) -> None:
    (yard.place / "word").write_text("its own")
    owner, keeper_pid = speaker(yard, "with a command")
    with owner:
        owner.kill()
    assert gone(keeper_pid)
    assert written(yard) == {"word": "its own"}


def test_nobody_speaks_for_an_owner_that_ends_in_order(yard: Yard) -> None:
    (yard.place / "room").write_text("x")
    owner, keeper_pid = speaker(yard, "with a command")
    with owner:
        assert owner.communicate(b"x") == (b"", None)
    assert gone(keeper_pid)
    assert written(yard) == {"room": "x"}
