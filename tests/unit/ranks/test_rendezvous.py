"""Where ranks meet without MPI: what tells them, the secret's file, and real processes that agree or end together."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from rayhpc.cli.node import node
from rayhpc.errors import ExitCode, Fault, RayhpcError
from rayhpc.host import network
from rayhpc.launch import terminals
from rayhpc.launch.terminals import with_worker_options
from rayhpc.options import Options, Terminals
from rayhpc.ranks.comm import SoloComm
from rayhpc.ranks.handshake import Wait, gather
from rayhpc.ranks.rendezvous import inputs
from rayhpc.ranks.rendezvous.by_file import file_identity, slurm_identity
from rayhpc.ranks.rendezvous.inputs import host_and_port, own_address
from rayhpc.ranks.rendezvous.meet import meet
from rayhpc.ranks.rendezvous.secret_file import token_file
from rayhpc.ranks.rendezvous.terminals import join_head, lead
from rayhpc.records import run_directory
from tests.launch import until

STEP = {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_JOB_ID": "17", "SLURM_STEP_ID": "2"}
BY_FILE = {"RAYHPC_RANK": "1", "RAYHPC_SIZE": "2", "RAYHPC_RENDEZVOUS_FILE": "/shared/meeting"}


def refused(options: Options, environ: Mapping[str, str]) -> Fault:
    with pytest.raises(RayhpcError) as caught:
        meet(options, environ, lambda _: 1.0, print)
    assert caught.value.fault.code in (ExitCode.CONFIGURATION, ExitCode.USAGE)
    assert caught.value.fault.next_step
    return caught.value.fault


def test_a_step_of_slurm_has_a_file_of_its_own() -> None:
    identity = slurm_identity("/runs", STEP)
    assert (identity.rank, identity.size, str(identity.file)) == (3, 4, "/runs/.rendezvous-17.2")
    assert slurm_identity("/runs", {**STEP, "SLURM_STEP_ID": "3"}).file != identity.file
    assert slurm_identity("/runs", {**STEP, "SLURM_STEP_NODELIST": "n[1-2]"}).hosts == ("n1", "n2")
    assert identity.hosts == ()


def test_ones_own_launcher_names_rank_size_and_file() -> None:
    identity = file_identity(BY_FILE)
    assert (identity.rank, identity.size, str(identity.file)) == (1, 2, "/shared/meeting")


@pytest.mark.parametrize(
    ("way", "environ", "words"),
    [
        ("slurm", {}, "SLURM_PROCID is not set"),
        ("slurm", {"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_ID": "1"}, "SLURM_STEP_NUM_TASKS is not set"),
        ("slurm", {**STEP, "SLURM_PROCID": "4"}, "there is no rank 4 among 4"),
        ("slurm", {**STEP, "SLURM_STEP_NUM_TASKS": "5000"}, "5000 ranks are too many"),
        ("file", {}, "RAYHPC_RANK is not set"),
        ("file", {**BY_FILE, "RAYHPC_SIZE": "two"}, "RAYHPC_SIZE=two"),
        ("file", {"RAYHPC_RANK": "0", "RAYHPC_SIZE": "2"}, "RAYHPC_RENDEZVOUS_FILE names no file"),
        ("tcp", {"RAYHPC_HEAD": "localhost:7000"}, "RAYHPC_SIZE is not set"),
        ("tcp", {"RAYHPC_SIZE": "2"}, "the head's host and port are not given"),
        ("tcp", {"RAYHPC_SIZE": "2", "RAYHPC_HEAD": "localhost"}, "names no host and port"),
        ("tcp", {"RAYHPC_SIZE": "2", "RAYHPC_HEAD": "no-such-host.invalid:7000"}, "no-such-host.invalid is unknown"),
    ],
)
def test_what_is_not_said_is_named(way: str, environ: dict[str, str], words: str, tmp_path: Path) -> None:
    fault = refused(Options(rendezvous=way), {"HOME": str(tmp_path), **environ})
    assert any(words in line for line in (fault.what, *fault.evidence)), fault


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("h:70", ("h", 70)),
        ("192.0.2.2:70", ("192.0.2.2", 70)),
        ("[fe80::1]:70", ("fe80::1", 70)),
        ("h", ("h", 9)),
        ("fe80::1", ("fe80::1", 9)),
        ("[fe80::1]", ("fe80::1", 9)),
    ],
)
def test_endpoints(text: str, expected: tuple[str, int]) -> None:
    assert host_and_port(text, 9) == expected


@pytest.mark.parametrize("text", ["", "h", ":70", "h:0", "h:65536", "h:²", "h:x"])
def test_no_endpoint(text: str) -> None:
    with pytest.raises(RayhpcError) as caught:
        host_and_port(text, 0)
    assert caught.value.fault.code == ExitCode.USAGE


@pytest.mark.parametrize(("host", "expected"), [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("127.0.1.1", "")])
def test_an_address_of_this_host_that_no_interface_has_chooses_none(host: str, expected: str) -> None:
    assert own_address(host) == expected


@pytest.mark.parametrize(
    ("host", "words"), [("192.0.2.77", "no address of"), ("no-such-host.invalid", "is unknown"), ("h" * 99, "unknown")]
)
def test_a_head_that_cannot_be_here_is_refused(host: str, words: str) -> None:
    with pytest.raises(RayhpcError, match=words) as caught:
        own_address(host)
    assert caught.value.fault.code == ExitCode.USAGE


@pytest.mark.parametrize(
    ("role", "environ", "words", "expected"),
    [
        ("head", {"RAY_HEAD_PORT": "6379"}, (), ("", 6379)),
        ("head", {"RAY_HEAD_PORT": "6379", "RAYHPC_PORT": "7000", "RAY_HEAD_IP": "::1"}, (), ("::1", 7000)),
        ("head", {"RAY_HEAD_PORT": "x"}, ("--port", "7000"), ("", 7000)),
        ("worker", {"RAY_HEAD_IP": "n1", "RAY_HEAD_PORT": "6379"}, (), ("n1", 6379)),
        ("worker", {"RAY_HEAD_IP": "n1", "RAYHPC_HEAD": "n2:7000"}, (), ("n2:7000", 0)),
        ("worker", {"RAY_HEAD_IP": "n1", "RAY_HEAD_PORT": ""}, ("--head", "n3"), ("n3", 0)),
    ],
)
def test_where_the_head_is(
    role: str,
    environ: dict[str, str],
    words: tuple[str, ...],
    expected: tuple[str, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An option wins, then our variable, then that of scripts for `ray start`."""
    told: list[Terminals] = []
    monkeypatch.setattr(terminals, role, lambda meeting, *_: told.append(meeting))
    assert CliRunner().invoke(node, [role, *words], env=environ).exit_code == 0
    assert (told[0].head, told[0].port) == expected


def test_a_wrong_variable_is_named() -> None:
    done = CliRunner().invoke(node, ["worker"], env={"RAY_HEAD_PORT": "65536"})
    assert done.exit_code == ExitCode.USAGE
    assert "'--port', from RAY_HEAD_PORT: 65536 is not in the range" in done.output


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"RAYHPC_STATE_DIR": "/state", "XDG_STATE_HOME": "/x"}, "/state/rendezvous/7"),
        ({"XDG_STATE_HOME": "/x"}, "/x/rayhpc/rendezvous/7"),
        ({"XDG_STATE_HOME": "relative"}, f"{Path.home()}/.local/state/rayhpc/rendezvous/7"),
    ],
)
def test_the_secret_lies_in_the_state_directory(environ: dict[str, str], expected: str) -> None:
    assert str(token_file("", 7, environ)) == expected
    assert str(token_file("/named", 7, environ)) == "/named"


def test_one_rank_needs_nobody(tmp_path: Path) -> None:
    environ = {**BY_FILE, "RAYHPC_RANK": "0", "RAYHPC_SIZE": "1"}
    assert isinstance(meet(Options(rendezvous="file"), environ, lambda _: 1.0, print), SoloComm)


def note(directory: Path, mode: int = 0o600) -> Path:
    file = directory / "note"
    run_directory.write_whole(file, b"text")
    file.chmod(mode)
    return file


def test_a_private_file_is_whole_and_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        file = note(tmp_path)
    finally:
        os.umask(before)
    assert (file.stat().st_mode & 0o777, run_directory.read_private(file)) == (0o600, "text")
    assert run_directory.read_private(tmp_path / "other") is None
    assert [path.name for path in tmp_path.iterdir()] == ["note"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602])
def test_a_file_that_others_may_use_is_not_trusted(tmp_path: Path, mode: int) -> None:
    environ = {**BY_FILE, "RAYHPC_RENDEZVOUS_FILE": str(note(tmp_path, mode))}
    fault = refused(Options(rendezvous="file"), environ)
    assert "cannot be trusted: others may use it" in fault.what
    assert "chmod 600" in fault.next_step


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(note(tmp_path))
    with pytest.raises(OSError, match="symbolic links"):
        run_directory.read_private(link)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_somebody_else_is_not_trusted(tmp_path: Path) -> None:
    file = note(tmp_path)
    os.chown(file, 12345, 12345)
    with pytest.raises(OSError, match="another account"):
        run_directory.read_private(file)


def test_a_short_secret_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    run_directory.write_whole(file, b"hunter2\n")
    port = network.free_port("here")
    environ = {"RAYHPC_SIZE": "2", "RAYHPC_HEAD": f"localhost:{port}", "RAYHPC_TOKEN_FILE": str(file)}
    fault = refused(Options(rendezvous="tcp"), environ)
    assert "too short: 7 letters" in fault.what
    assert "hunter2" not in fault.text()


def test_a_port_in_use_is_told() -> None:
    with network.server() as taken:
        port = taken.getsockname()[1]
        with pytest.raises(RayhpcError, match=f"cannot listen at port {port} of .*: Address already in use") as caught:
            lead(Terminals(port=port), Options(), 1.0, {}, print)
    assert caught.value.fault.code == ExitCode.CONFIGURATION


def test_more_ranks_than_this_process_may_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 1024))
    inputs.check_size(900)
    with pytest.raises(RayhpcError, match="1000 ranks need a connection each, and this process may open 1024 files"):
        inputs.check_size(1000)


def test_one_terminal_needs_nobody() -> None:
    assert isinstance(lead(Terminals(nodes=1), Options(), 1.0, {}, print), SoloComm)


def test_a_worker_of_a_rank_0_that_is_no_terminal_says_so(tmp_path: Path) -> None:
    """Its head was started by --rendezvous=tcp, which gives a worker no options."""
    file = tmp_path / "secret"
    run_directory.write_whole(file, b"s" * 64)
    listener = network.server()
    wait = Wait(20.0, print, "rank 0", "start the other")
    head = threading.Thread(target=lambda: gather(listener, b"s" * 64, 2, None, wait)._close())
    head.start()
    meeting = Terminals(head=f"localhost:{listener.getsockname()[1]}", token_file=str(file))
    with pytest.raises(RayhpcError, match="was not started by `rayhpc node head`") as caught:
        join_head(meeting, 20.0, {}, print)
    head.join(20)
    assert caught.value.fault.code == ExitCode.CONFIGURATION


def test_a_workers_own_options_win_and_the_rest_is_the_heads() -> None:
    head = Options(num_cpus=3, interface="ib0", temp_dir="/tmp", timeout=9.0)
    assert with_worker_options(head, Options(num_cpus=1, temp_dir="/scratch")) == replace(head, temp_dir="/scratch")


@pytest.mark.parametrize("rank", ["0", "1"])
def test_wrong_words_are_told_once(rank: str) -> None:
    """The ranks do not meet for it: each has the same words."""
    argv = [sys.executable, "-m", "rayhpc.start", "--rendezvous=file", "--no-such-option", "x.py"]
    environ = {**os.environ, "RAYHPC_RANK": rank, "RAYHPC_SIZE": "2"}
    done = subprocess.run(argv, env=environ, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr.count("exit code 2")) == (2, 1 if rank == "0" else 0), done.stderr


# Real processes.

PROGRAM = r"""
import functools, os, signal, sys, time
from rayhpc.ranks.comm import Unreachable, agree
from rayhpc.errors import RayhpcError, configuration
from rayhpc.options import Options
from rayhpc.ranks.rendezvous.meet import meet
way, how = sys.argv[1:]
tell = functools.partial(print, flush=True)
try:
    comm = meet(Options(rendezvous=way), os.environ, lambda _: 40.0, tell)
except RayhpcError as error:
    print(error.fault.text(), flush=True)
    sys.exit(int(error.fault.code))
last = comm.rank == comm.size - 1
print(f"rank {comm.rank} of {comm.size}", flush=True)
def local():
    if how == "fault" and last:
        raise configuration("no luck", next_step="try again")
    if how == "bug" and comm.rank == 0:
        return 1 // 0
    if how == "abort" and last:
        comm.abort(74)
    if how == "killed" and last or how == "headless" and comm.rank == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "silent" and last:
        time.sleep(60)
    return comm.rank ** 2, b"x" * (5 << 20) if how == "large" else b""
try:
    total = lambda all: [sum(word[0] for word in all) + len(all[-1][1])] * len(all)
    print("share", agree(comm, f"rank {comm.rank}", local, total, 2.0 if how == "silent" else 30.0), flush=True)
except RayhpcError as error:
    print(error.fault.text(), flush=True)
    if isinstance(error, Unreachable):
        comm.abort(int(error.fault.code))
    comm.leave()
    sys.exit(int(error.fault.code))
comm.leave()
"""


@dataclass
class Processes:
    directory: Path
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, way: str, how: str, **environ: str) -> int:
        number = len(self.started)
        with (self.directory / f"output-{number}").open("wb") as output:
            env = {**os.environ, "RAYHPC_STATE_DIR": f"{self.directory}/state", **environ}
            argv = [sys.executable, "-c", PROGRAM, way, how]
            self.started.append(
                subprocess.Popen(argv, env=env, stdout=output, stderr=subprocess.STDOUT, cwd=self.directory)
            )
        return number

    def start_by_file(self, size: int, how: str) -> None:
        for rank in range(size):
            file = f"{self.directory}/meeting"
            self.start("file", how, RAYHPC_RANK=str(rank), RAYHPC_SIZE=str(size), RAYHPC_RENDEZVOUS_FILE=file)

    def output(self, number: int) -> str:
        return (self.directory / f"output-{number}").read_text()

    def outputs(self) -> list[str]:
        return [self.output(number) for number in range(len(self.started))]

    def codes(self) -> list[int]:
        assert until(lambda: all(process.poll() is not None for process in self.started), 60), self.outputs()
        return [process.returncode for process in self.started]


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    made = Processes(tmp_path)
    yield made
    for process in made.started:
        process.kill()
        process.wait()


@pytest.mark.parametrize(("how", "share"), [("well", 5), ("large", 5 + (5 << 20))])
def test_processes_agree(processes: Processes, how: str, share: int) -> None:
    processes.start_by_file(3, how)
    assert processes.codes() == [0, 0, 0], processes.outputs()
    assert [f"share {share}\n" in output for output in processes.outputs()] == [True] * 3
    assert not (processes.directory / "meeting").exists()


@pytest.mark.parametrize(
    ("how", "codes", "words"),
    [
        ("fault", [78, 78, 78], "no luck  [rank 2]"),
        ("bug", [70, 70, 70], "ZeroDivisionError"),
        ("silent", [71, 71, 71], "no message from rank 2 within 2 s"),
        ("killed", [71, 71, -signal.SIGKILL], "rank 2 has ended before the cluster was agreed"),
        ("abort", [74, 74, 74], "rank 2 has ended the run with code 74"),
    ],
)
def test_what_one_process_meets_ends_all(processes: Processes, how: str, codes: list[int], words: str) -> None:
    processes.start_by_file(3, how)
    if how == "silent":  # told to end, it notices when it looks: here it never does
        assert until(lambda: processes.started[0].poll() is not None, 60), processes.outputs()
        processes.started[2].send_signal(signal.SIGKILL)
        codes = [71, 71, -signal.SIGKILL]
    assert processes.codes() == codes, processes.outputs()
    assert words in processes.output(0)


def test_without_rank_0_the_others_end_at_once(processes: Processes) -> None:
    processes.start_by_file(3, "headless")
    assert processes.codes() == [-signal.SIGKILL, 71, 71], processes.outputs()
    assert "rank 0 has ended before the cluster was agreed" in processes.output(1)


def test_a_step_of_slurm_meets_under_the_run_directory(processes: Processes) -> None:
    for rank in range(2):
        step = {**STEP, "SLURM_PROCID": str(rank), "SLURM_STEP_NUM_TASKS": "2"}
        processes.start("slurm", "well", **step)
    assert processes.codes() == [0, 0], processes.outputs()
    assert "share 1\n" in processes.output(1)
    assert list((processes.directory / "rayhpc-runs").iterdir()) == []


def test_by_address_the_first_is_rank_0(processes: Processes) -> None:
    environ = {"RAYHPC_SIZE": "3", "RAYHPC_HEAD": f"localhost:{network.free_port('here')}"}
    for _ in range(3):
        processes.start("tcp", "well", **environ)
    assert processes.codes() == [0, 0, 0], processes.outputs()
    assert sorted(output.splitlines()[-2] for output in processes.outputs()) == [f"rank {n} of 3" for n in range(3)]
    assert not [path for path in (processes.directory / "state").rglob("*") if path.is_file()]


def test_a_signal_before_all_have_met_leaves_no_secret(processes: Processes) -> None:
    program = PROGRAM.replace(
        "way, how =", "from rayhpc.processes.signals import unwind_on_signals; unwind_on_signals()\nway, how ="
    )
    file = processes.directory / "meeting"
    environ = {"RAYHPC_RANK": "0", "RAYHPC_SIZE": "2", "RAYHPC_RENDEZVOUS_FILE": str(file)}
    process = subprocess.Popen([sys.executable, "-c", program, "file", "well"], env={**os.environ, **environ})
    processes.started.append(process)
    assert until(file.exists, 30)
    assert file.stat().st_mode & 0o777 == 0o600
    process.terminate()
    assert process.wait(30) == 128 + signal.SIGTERM
    assert not file.exists()
