"""What rank 0 does: start the head and the workers, run the driver, decide how the run ends, shut everything down."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rayhpc import paths
from rayhpc.bootstrap import driver, readiness, teardown
from rayhpc.bootstrap.node import PORT_TAKEN, START_TRIES, Node
from rayhpc.bootstrap.node_table import NodeTable
from rayhpc.bootstrap.supervise import Supervisor
from rayhpc.bootstrap.watch import Watch
from rayhpc.errors import RayhpcError, counted
from rayhpc.host import network
from rayhpc.log import Console
from rayhpc.messages import DriverEnded, Milestone, NodeEnded, RankFailed, StartNode, Stopped
from rayhpc.model import HEAD_RANK, AliveNode, Assignment, ClusterEntry, ClusterSpec, Outcome
from rayhpc.options import Options
from rayhpc.processes.children import Child
from rayhpc.processes.signals import Signals
from rayhpc.ranks.comm import Comm, internal
from rayhpc.records import registry, run_directory
from rayhpc.records.registration import Registration
from rayhpc.records.run_directory import EventLog

# How often mail is looked for and the node table asked: while the cluster comes up, and while the driver runs.
_HASTE = 0.01
_CALM = 0.1
# A single rank gets no mail; signals and its children's ends wake it at once.
_ALONE = 0.5
_TABLE_HASTE = 0.02
_TABLE_CALM = 1.0
# A row of the table costs 100 microseconds of the GCS's CPU time for each answer, 40 of `ray start`'s, 7 of rank 0's.
_TABLE_HASTE_PER_NODE = 0.0005
_TABLE_CALM_PER_NODE = 0.0025


def table_pauses(nodes: int) -> tuple[float, float]:
    """Seconds between two looks at the node table, while it fills and later: longer for more nodes than 40 and 400.

    Asking takes 0.3 of a core while the nodes join, and 0.06 while the driver runs, whatever their number.
    """
    return max(_TABLE_HASTE, _TABLE_HASTE_PER_NODE * nodes), max(_TABLE_CALM, _TABLE_CALM_PER_NODE * nodes)


class Leader:
    """One run, led. Each stage returns None to go on or the Outcome that ends the run."""

    def __init__(
        self, comm: Comm, assignment: Assignment, spec: ClusterSpec, node: Node, options: Options,
        argv: Sequence[str], console: Console, signals: Signals,
    ) -> None:  # fmt: skip
        self._comm, self._assignment, self._spec, self._node = comm, assignment, spec, node
        self._options, self._argv, self._console = options, argv, console
        self._directory = Path(spec.run_dir)
        self._log = EventLog(self._directory)
        self._watch = Watch(comm, signals, _HASTE)
        self._supervisor = Supervisor(comm, self._watch, spec, options, console, self._log)
        self._timeout = options.timeout or readiness.default_timeout(len(spec.nodes))
        self._end = time.monotonic() + self._timeout
        self._pauses = table_pauses(len(spec.nodes))
        self._tries = 1
        self._driver: Child | None = None
        self._registration: Registration | None = None

    def run(self, warnings: Sequence[str]) -> int:
        """Lead the run to its end; the exit code of the job."""
        try:
            outcome = (
                self._introduce(warnings)
                or self._start_head()
                or self._start_workers()
                or self._accept_cluster()
                or (self._hold() if self._options.hold else self._run_driver())
            )
        except RayhpcError as error:
            outcome = Outcome.of(error.fault)
        except Exception as error:  # a bug of ours must not leave anything running
            outcome = Outcome.of(internal(error))
        return self._give_back(outcome)

    def _introduce(self, warnings: Sequence[str]) -> Outcome | None:
        """The first lines and the record of what was agreed."""
        spec = self._spec
        run_directory.write_json(self._directory / paths.SPEC, spec)
        self._stage("agreed", f"{counted(spec.ranks, 'rank')} on {counted(spec.hosts, 'host')}; run {spec.run_dir}")
        for warning in warnings:
            self._console.line(f"WARNING: {warning}")
        return None

    def _stage(self, name: str, text: str) -> None:
        self._log.write(name, HEAD_RANK, self._spec.head.host)
        self._console.line(text)

    def _start_head(self) -> Outcome | None:
        """The head, alive in its own node table."""
        self._launch_head(self._spec.port)
        spec = self._spec
        self._driver = None if self._options.hold else driver.keeper(spec.run_id)
        table = NodeTable(spec.address, paths.node_table(spec.head.temp_dir), _TABLE_HASTE)
        self._supervisor.table = table
        outcome = self._await([HEAD_RANK], "head")
        if outcome is None and readiness.missing(table.nodes, [spec.head]):
            outcome = self._verdict()
        if outcome is None:
            self._stage("head", f"head {self._spec.address} up")
        return outcome

    def _launch_head(self, port: int) -> None:
        self._log.write("start", HEAD_RANK, self._spec.head.host)
        self._watch.add(self._node.start(port, ""), self._head_ended)

    def _head_ended(self, child: Child) -> NodeEnded | Milestone:
        """The event of the head's end; bad luck is answered with another start, if possible on another port."""
        reason = self._node.worth_another_try()
        fixed = reason == PORT_TAKEN and self._options.port
        if HEAD_RANK in self._supervisor.roster.seen or self._tries >= START_TRIES or not reason or fixed:
            return self._node.ended(child)
        self._tries += 1
        self._node.clear()
        self._move_head(network.free_port(self._spec.head.host, self._options.port))
        self._launch_head(self._spec.port)
        return self._node.started_again(reason)

    def _move_head(self, port: int) -> None:
        """The head's new port, in the record and for those who ask its node table."""
        self._spec = replace(self._spec, port=port)
        run_directory.write_json(self._directory / paths.SPEC, self._spec)
        if self._supervisor.table is not None:
            self._supervisor.table.move(self._spec.address)

    def _await(self, wanted: Sequence[int], what: str) -> Outcome | None:
        table = self._supervisor.table
        assert table is not None
        nodes = [node for node in self._spec.nodes if node.rank in wanted]
        with self._console.bar(what, len(nodes)) as bar:
            lost = self._supervisor.roster.lost
            return readiness.wait_for_nodes(table, nodes, lost, self._end, self._supervisor.poll, bar)

    def _start_workers(self) -> Outcome | None:
        """All workers, as soon as the head can take them in."""
        assert self._supervisor.table is not None
        self._supervisor.table.every = self._pauses[0]
        for node in self._spec.nodes[1:]:
            self._comm.send(node.rank, StartNode(self._spec.address))
        return self._await([node.rank for node in self._spec.nodes], "nodes")

    def _accept_cluster(self) -> Outcome | None:
        """The verdict on what is alive; from here on a node's loss is the run's to survive."""
        outcome = self._verdict()
        if outcome is not None:
            return outcome
        supervisor = self._supervisor
        supervisor.accept()
        assert supervisor.table is not None
        alive = supervisor.table.nodes or ()
        self._stage("up", f"{len(alive)}/{len(self._spec.nodes)} Ray nodes, {readiness.totals(alive)}")
        supervisor.table.every = self._pauses[1]
        self._watch.every = _CALM if self._comm.size > 1 else _ALONE
        if self._options.register:
            entry = cluster_entry(self._spec, alive, self._argv, self._options.tls)
            secrets = self._assignment.token, self._assignment.certificate
            self._registration = Registration(entry, *secrets, self._console.line)
        for line in self._next_commands():
            self._console.plain(f"           {line}")
        return None

    def _verdict(self) -> Outcome | None:
        table = self._supervisor.table
        assert table is not None
        return readiness.verdict(table, self._spec, self._options, self._console, self._timeout)

    def _next_commands(self) -> list[str]:
        """What the user may want to do now."""
        spec, lines = self._spec, []
        if spec.dashboard_port:
            where = replace(spec, port=spec.dashboard_port).address
            lines += [f"dashboard: ssh -N -L 8265:{where} {spec.head.host}   then http://localhost:8265"]
        if self._options.hold:
            settings = {"RAY_ADDRESS": spec.address, **self._node.authentication}
            exports = " ".join(f"{name}={shlex.quote(value)}" for name, value in settings.items())
            lines += [f"on {spec.head.host}: env {exports} python your_driver.py", "end it: Ctrl-C, or SIGTERM"]
            if self._options.register:
                lines += [f"from a login node: rayhpc cluster attach {spec.run_id}"]
        return lines

    def _run_driver(self) -> Outcome:
        """The driver, until something decides."""
        self._stage("driver", f"driver: {shlex.join(self._argv)[:200]}")
        assert self._driver is not None
        driver.start(self._driver, self._argv, self._assignment, self._spec, self._options.stop_timeout)
        self._supervisor.drive(self._driver)
        self._watch.add(self._driver, self._driver_ended)
        return self._supervise()

    def _driver_ended(self, child: Child) -> DriverEnded | RankFailed:
        if child.failed is not None:
            return RankFailed(HEAD_RANK, driver.refusal(self._argv, child.failed))
        assert child.code is not None
        if child.code == 1 and (hint := driver.hint(self._argv)):
            self._console.line(hint)
        return DriverEnded(child.code)

    def _hold(self) -> Outcome:
        self._stage("hold", "holding the cluster until a signal")
        return self._supervise()

    def _supervise(self) -> Outcome:
        while True:
            outcome = self._supervisor.poll()
            if outcome is not None:
                return outcome

    def _give_back(self, outcome: Outcome) -> int:
        """Driver first, then all nodes side by side; the record and the last lines; the exit code."""
        began = time.monotonic()
        self._log.write("decided", HEAD_RANK, self._spec.head.host, code=outcome.code, cause=outcome.cause)
        if outcome.fault is not None:
            self._console.plain(outcome.fault.text())
        table = self._supervisor.table
        if table is not None:
            table.close()
        problems = teardown.end_child(self._driver)
        answers = self._stop_all(outcome)
        problems += [text for answer in answers.values() for text in answer.problems]
        missing = sorted(set(range(self._comm.size)) - set(answers))
        problems += [f"rank {rank} ({self._supervisor.host(rank)}) has not answered" for rank in missing]
        released = time.monotonic() - began
        problems += self._archive(answers)
        problems += self._record(outcome, released, problems)
        if self._registration is not None:
            problems += self._registration.close()
        self._console.line(f"{outcome.cause}; shut down in {released:.1f} s; exit code {outcome.code}")
        for problem in problems:
            self._console.line(f"WARNING: {problem}")
        if missing:
            self._comm.abort(outcome.code)
        teardown.dismiss(self._comm, range(1, self._comm.size))
        self._comm.leave()
        return outcome.code

    def _stop_all(self, outcome: Outcome) -> dict[int, Stopped]:
        keep = self._options.logs == "always" or (self._options.logs == "failure" and outcome.code != 0)
        order = teardown.stop_order(len(self._spec.nodes), keep)
        answers: dict[int, Stopped] = {}

        def stop_own() -> None:
            self._node.keep_first_words()
            answers[HEAD_RANK] = teardown.stop_rank(self._assignment, HEAD_RANK, self._node.child, order)

        others = range(1, self._comm.size)
        return {**teardown.stop_others(self._comm, order, others, self._supervisor.doubtful(), stop_own), **answers}

    def _archive(self, answers: dict[int, Stopped]) -> list[str]:
        """Pack Ray's logs; in words what went wrong: a full run directory changes no exit code."""
        logs = {f"rank-{rank}-{self._supervisor.host(rank)}": answer.logs for rank, answer in answers.items()}
        try:
            if any(logs.values()):
                run_directory.archive(self._directory / paths.LOGS, logs)
        except OSError as error:
            return [f"Ray's logs could not be kept in {self._directory}: {error.strerror}"]
        return []

    def _record(self, outcome: Outcome, released: float, problems: Sequence[str]) -> list[str]:
        """Write how it ended; in words what went wrong."""
        self._log.write("released", HEAD_RANK, self._spec.head.host, seconds=round(released, 3))
        self._log.close()
        record = {
            "code": outcome.code,
            "cause": outcome.cause,
            "fault": outcome.fault,
            "command": list(self._argv),
            "release_seconds": round(released, 3),
            "problems": list(problems),
        }
        try:
            run_directory.write_json(self._directory / paths.OUTCOME, record)
        except OSError as error:
            return [f"{self._directory / paths.OUTCOME} could not be written: {error.strerror}"]
        return [f"{self._log.lost} events could not be written"] if self._log.lost else []


def cluster_entry(spec: ClusterSpec, alive: Sequence[AliveNode], command: Sequence[str], tls: bool) -> ClusterEntry:
    """What the login side is told of a cluster that has just come up."""
    return ClusterEntry(
        id=spec.run_id,
        user=registry.account(),
        host=spec.head.host,
        address=spec.address,
        dashboard=f"http://{replace(spec, port=spec.dashboard_port).address}" if spec.dashboard_port else "",
        nodes=len(alive),
        cpus=sum(node.cpus for node in alive),
        gpus=sum(node.gpus for node in alive),
        run_dir=spec.run_dir,
        scheduler=spec.scheduler,
        batch_job_id=spec.batch_job_id,
        command=tuple(command),
        started_at=time.time(),
        deadline=spec.deadline,
        tls=tls,
        pid=os.getpid(),
    )
