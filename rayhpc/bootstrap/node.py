"""Stage 3: this rank's Ray node, a `ray start --block` under a keeper."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from rayhpc import paths
from rayhpc.bootstrap import private_directory
from rayhpc.bootstrap.shortage import lacking, remedy, shortage
from rayhpc.bootstrap.start_retries import reason_to_retry
from rayhpc.errors import RayhpcError, configuration
from rayhpc.host import network, this_host
from rayhpc.inside_ray import names
from rayhpc.messages import Milestone, NodeEnded
from rayhpc.model import HEAD_RANK, Assignment, NodeSpec
from rayhpc.options import Options
from rayhpc.processes import environment
from rayhpc.processes.children import Child, until_gone
from rayhpc.processes.keeper_process import Speaking
from rayhpc.processes.ray_start import RayStart
from rayhpc.records import registry, run_directory
from rayhpc.records.token import write_authentication

_GONE_SECONDS = 5.0
# Lines of a log in which a cause is looked for: C++ frames follow it.
_SEARCHED = 40


class Node:
    """The Ray node of one rank; start() may be called again after its end, e.g. with another port.

    early_start: a `ray start` that runs already and has no arguments yet.
    """

    def __init__(
        self, assignment: Assignment, spec: NodeSpec, options: Options, early_start: RayStart | None = None
    ) -> None:
        self.spec = spec
        self.child = early_start
        self._made = False
        self._starts = self._restart = 0
        self._early_output = b""
        self._last_word = ""
        self._refused_before = this_host.refused_processes()
        self._assignment = assignment
        self._options = options

    @property
    def log(self) -> Path:
        """What `ray start` prints."""
        return paths.rank_log(self._assignment.run_dir, self.spec.rank)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the node's daemons."""
        interface = this_host.interface_of(self.spec.address)
        return environment.of_daemons(os.environ, self._assignment, self.spec, interface)

    def prepare(self) -> None:
        """Make the log, the private directory and the secrets in it; raises RayhpcError if one cannot be made.

        The directory goes with this process, however that ends: the keeper makes it and answers for it.
        """
        try:
            run_directory.make_private(self.log.parent, exist_ok=True)
            os.close(os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600))
            self._make_directory()
            assignment = self._assignment
            write_authentication(self.spec.temp_dir, assignment.token, assignment.certificate)
        except OSError as error:
            raise configuration(
                f"{error.filename} cannot be made: {error.strerror}",
                next_step="check --temp-dir and --run-dir on this host",
            ) from error

    def _make_directory(self) -> None:
        """Make the private directory; raises OSError for anything that is there, also for a planted link."""
        child = self._waiting()
        try:
            child.make(self.spec.temp_dir)
        except OSError:
            if not child.poll():
                raise
            self._waiting().make(self.spec.temp_dir)  # the early one has ended; the next one reports why
        self._made = True

    def _waiting(self) -> RayStart:
        """A `ray start` that has no arguments yet and has not ended: the one that is there, or a new one."""
        child = self.child
        if child is None or child.told or child.poll():
            self.keep_first_words()
            child = self._begin_another()
        child.name(Path(self.spec.temp_dir).name)
        return child

    def _begin_another(self) -> RayStart:
        """Another `ray start`, which answers for the directory before the one that did is ended."""
        child = RayStart(Speaking("node"))
        before, self.child = self.child, child
        if self._made:
            child.answer_for(self.spec.temp_dir)
        if self._last_word:
            self.leave_word(self._last_word)
        if before is not None:
            before.end()
            until_gone([before], _GONE_SECONDS)
        return child

    def leave_word(self, text: str) -> None:
        """What the run's outcome shall be if this process goes without having written it."""
        self._last_word = text
        directory = Path(self._assignment.run_dir)
        if self.child is not None:
            self.child.leave_word(directory / paths.ROOM, directory / paths.OUTCOME, text)

    def begin_restart(self, ordinal: int) -> None:
        """Clear the node for its ordinal-th restart after a loss."""
        self._restart, self._starts = ordinal, 0
        self.clear()

    def end(self) -> None:
        """End what is left of a node that was started; its directory stays, with its logs."""
        self.keep_first_words()
        self._begin_another()

    def clear(self) -> None:
        """End what is left of a node that was started, so that another may be started in its place."""
        self.end()
        shutil.rmtree(paths.ray_temp_dir(self.spec.temp_dir), ignore_errors=True)

    def warm_up(self) -> RayStart:
        """Begin `ray start`, which imports Ray and then waits for start()."""
        child = self._waiting()
        child.warm_up(self.environment)
        return child

    def start(self, port: int, address: str) -> RayStart:
        """Let `ray start` go on, or begin it; address is the head's, empty on the head itself."""
        self._starts += 1
        child = self.warm_up()
        for path in (*self._entry(), *private_directory.link(self._assignment)):
            child.answer_for(path)
        arguments = start_arguments(self._assignment, self.spec, self._options, port, address)
        child.tell(arguments, self.environment, self.log)
        return child

    def _entry(self) -> list[str]:
        """The head's entry in the registry, which the run makes later: a run that is killed must leave nothing."""
        if self.spec.rank != HEAD_RANK or not self._options.register:
            return []
        try:
            return [str(registry.directory(self._assignment.run_id))]
        except RayhpcError:
            return []  # without a home directory there will be none, which is reported then

    @property
    def authentication(self) -> dict[str, str]:
        """What lets a process of this rank into the cluster."""
        return environment.authentication(self.spec.temp_dir, self._assignment.certificate is not None)

    def ended_or_started_again(self, child: Child, start: Callable[[], None]) -> NodeEnded | Milestone:
        """The event of the node's end; start() is called instead where the end says nothing about another start."""
        reason = self._retry_reason()
        if not reason:
            return self.ended(child)
        self.clear()
        start()
        warning = f"{reason}: its Ray node is started again"
        return Milestone(self.spec.rank, self.spec.host, reason, time.time(), warning)

    def ended(self, child: Child) -> NodeEnded:
        """The event of the node's end, with what it last wrote."""
        code = child.code if child.code is not None else 127
        return NodeEnded(self.spec.rank, self.spec.host, code, self.evidence(), self._restart, child.keeper_code)

    def discard(self) -> None:
        """Remove the private directory of a node that was never started, if it is ours."""
        if self.child is not None:
            self.child.discard()
            until_gone([self.child], _GONE_SECONDS)
        if self._made:  # a keeper that was killed has left it
            shutil.rmtree(self.spec.temp_dir, ignore_errors=True)

    def _retry_reason(self) -> str:
        """Why the node that ended is started once more; empty where it is not."""
        self.keep_first_words()
        files = [self.log, *self._logs.glob("gcs_server.*"), *self._logs.glob("raylet.*")]
        lines = [line for file in files for line in run_directory.last_lines(file, _SEARCHED)]
        return reason_to_retry(self._starts, lines, self.spec.rank == HEAD_RANK and bool(self._options.port))

    def keep_first_words(self) -> None:
        """Copy to the log what `ray start` wrote before it knew its log, such as why Ray cannot be imported."""
        self._early_output += self.child.first_words() if self.child else b""
        if self._early_output:
            with contextlib.suppress(OSError), self.log.open("ab") as log:  # where it is full, the evidence has them
                log.write(self._early_output)
                self._early_output = b""

    def evidence(self, count: int = 10) -> tuple[str, ...]:
        """The last lines of the node's log and of its daemons' standard error; of a shortage, the line that says it."""
        self.keep_first_words()
        files = [self.log, self._logs / "gcs_server.err", self._logs / "raylet.err"]
        lines = [line for file in files for line in run_directory.last_lines(file, max(count, _SEARCHED))]
        last = [line for file in files for line in run_directory.last_lines(file, count)]
        if short := shortage(lines):
            return (short, *run_directory.last_lines(self.log, 2))
        return tuple([*self._early_output.decode(errors="replace").splitlines(), *last][-count:])

    def shortages(self) -> tuple[str, ...]:
        """What the kernel has refused to this node while it ran, for the user; empty if nothing."""
        self.keep_first_words()
        files = [self.log, *sorted(self._logs.glob("*.err"))]
        short = shortage(line for file in files for line in run_directory.last_lines(file, _SEARCHED))
        refused = this_host.refused_processes() - self._refused_before
        found = [f"Ray has lacked {lacking(short)}: {remedy(short)}"] if short else []
        if refused > 0:
            found += [f"the cgroup has refused processes or threads: its pids.max is {this_host.process_limit()}"]
        return tuple(found)

    @property
    def _logs(self) -> Path:
        """Where Ray's daemons and workers write."""
        return Path(paths.ray_temp_dir(self.spec.temp_dir), "session_latest", "logs")


def start_arguments(assignment: Assignment, spec: NodeSpec, options: Options, port: int, address: str) -> list[str]:
    """The command line of `ray start`: every resource said, no fixed port, nothing that is not needed."""
    role = [f"--address={address}"] if address else _head_arguments(assignment, options, port)
    rank = f"{assignment.run_id}.{spec.rank}" if assignment.joins else str(spec.rank)
    labels = ",".join(part for part in (options.labels, f"{names.RANK_LABEL}={rank}") if part)
    return [
        "start",
        "--block",
        *role,
        f"--node-ip-address={spec.address}",
        f"--temp-dir={paths.ray_temp_dir(spec.temp_dir)}",
        f"--num-cpus={spec.cpus}",
        f"--num-gpus={len(spec.gpus.ids)}",
        f"--memory={spec.memory}",
        f"--object-store-memory={spec.object_store}",
        *([f"--plasma-directory={spec.store_dir}"] if spec.store_dir else []),
        *([f"--resources={json.dumps(json.loads(options.resources))}"] if options.resources else []),
        f"--labels={labels}",
        "--min-worker-port=0",
        "--max-worker-port=0",
        "--dashboard-agent-listen-port=0",
        *options.ray_arg,
    ]


def _head_arguments(assignment: Assignment, options: Options, port: int) -> list[str]:
    dashboard = [f"--dashboard-host={assignment.head_address}", f"--dashboard-port={assignment.dashboard_port}"]
    return [
        "--head",
        f"--port={port}",
        "--no-monitor",
        f"--include-dashboard={str(options.dashboard).lower()}",
        *(dashboard if options.dashboard else []),
        *(_client_server(assignment.head_address) if names.switched_off(os.environ) else []),
    ]


def _client_server(address: str) -> list[str]:
    """A free port for Ray's client server, which our hook leaves out; Ray starts it wherever grpcio is installed."""
    installed = importlib.util.find_spec("grpc") is not None
    return [f"--ray-client-server-port={network.free_port(address)}"] if installed else []
