"""What rank 0 does, as a chain of stages: bring the cluster up, run the driver, shut everything down."""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from rayhpc import paths
from rayhpc.bootstrap import announce, driver, teardown
from rayhpc.bootstrap.bring_up import BringUp
from rayhpc.bootstrap.metrics import Metrics
from rayhpc.bootstrap.node import Node
from rayhpc.bootstrap.node_table import NodeTable
from rayhpc.bootstrap.plan import ClusterPlan
from rayhpc.bootstrap.run_context import RunContext
from rayhpc.bootstrap.supervise import Supervisor
from rayhpc.errors import RayhpcError, counted
from rayhpc.messages import DriverEnded, RankFailed, Stop, Stopped
from rayhpc.model import HEAD_RANK, BadHost, Outcome
from rayhpc.processes.children import Child
from rayhpc.ranks.comm import internal
from rayhpc.records import outcome_file, run_directory
from rayhpc.records.outcome_file import Pulse
from rayhpc.records.registration import Registration
from rayhpc.user_input.secret_names import shown_words

Stage = Callable[[], Outcome | None]
_SHOWN = 200


class Leader:
    """One run, led by rank 0. A stage returns None to go on, or the Outcome that ends the run.

    A further stage, e.g. a check of the accepted cluster before the driver, is one line in stages().
    """

    supervisor: type[Supervisor] = Supervisor

    def __init__(self, context: RunContext, plan: ClusterPlan, node: Node, bad_hosts: Sequence[BadHost] = ()) -> None:
        """bad_hosts: those that a check has found before."""
        spec = plan.spec
        self._context, self._plan, self._node = context, plan, node
        joined = spec.run_id if spec.joins else ""
        self._table = NodeTable(spec.address, paths.node_table(spec.head.temp_dir), joined=joined)
        self._supervisor = self.supervisor(context, spec, self._table)
        self._supervisor.bad_hosts |= {each.host: each for each in bad_hosts}
        self._bring_up = BringUp(context, spec, node, self._supervisor)
        self._driver: Child | None = None
        self._registration: Registration | None = None
        self._pulse: Pulse | None = None
        self._metrics = Metrics(context, plan.assignment.token)

    def stages(self) -> Sequence[Stage]:
        """The run, in order."""
        return (
            self._introduce,
            self._bring_up.launch_head,
            self._prepare_driver,
            self._bring_up.await_head,
            self._bring_up.start_workers,
            self._bring_up.accept,
            self._collect_metrics,
            self._register,
            self._print_commands,
            self._hold if self._context.options.hold else self._run_driver,
        )

    def run(self) -> int:
        """Lead the run to its end; the exit code of the job."""
        try:
            outcome = self._run_stages()
        except RayhpcError as error:
            outcome = Outcome.of(error.fault)
        except Exception as error:  # a bug of ours must not leave anything running
            outcome = Outcome.of(internal(error))
        self._table.close()
        if self._pulse is not None:
            self._pulse.close()
        doubtful, figures = self._supervisor.doubtful(), self._metrics.close()
        bad = tuple(self._supervisor.bad_hosts.values())
        leftovers = teardown.Leftovers(self._driver, self._registration, doubtful, self._stop_node, figures, bad)
        return teardown.shut_down(self._context, self._bring_up.spec, leftovers, outcome)

    def _run_stages(self) -> Outcome:
        outcomes = (stage() for stage in self.stages())
        return next(outcome for outcome in outcomes if outcome is not None)

    def _introduce(self) -> Outcome | None:
        """The first lines, and the record of what was agreed."""
        spec = self._plan.spec
        self._pulse = Pulse(Path(spec.run_dir))
        self._node.leave_word(self._last_word())
        run_directory.write_json(Path(spec.run_dir, paths.SPEC), spec)
        ranks = f"{counted(spec.ranks, 'rank')} on {counted(spec.hosts, 'host')}"
        if spec.spares:
            ranks += f", {len({node.host for node in spec.spares})} of them spare"
        command = shown_words(self._context.argv, os.environ)
        self._context.milestone("agreed", spec.head.host, f"{ranks}; run {spec.run_dir}", command=command)
        if real := run_directory.planted(Path(spec.run_dir)):
            self._context.console.line(f"{Path(spec.run_dir).parent} is a link: the run lies in {real}")
        for warning in (*self._plan.warnings, *announce.ignored_variables(os.environ)):
            self._context.console.line(f"WARNING: {warning}")
        return None

    def _last_word(self) -> str:
        """What the keeper of the head writes where nobody else could any more."""
        place = self._plan.spec.head.place
        killed = Outcome(128 + signal.SIGKILL, f"{place} was killed, or its launcher was")
        return outcome_file.text(outcome_file.record(killed, self._context.argv))

    def _prepare_driver(self) -> Outcome | None:
        """Start the driver's keeper beside the head: it takes a while to be ready."""
        if not self._context.options.hold:
            self._driver = driver.keeper(self._plan.spec.run_id)
        return None

    def _collect_metrics(self) -> Outcome | None:
        return self._metrics.start(self._bring_up.spec, self._bring_up.alive)

    def _register(self) -> Outcome | None:
        """Enter the cluster in the user's registry."""
        context, assignment = self._context, self._plan.assignment
        if context.options.register:
            entry = announce.cluster_entry(self._bring_up.spec, self._bring_up.alive, context.argv, context.options.tls)
            entry = replace(entry, metrics=self._metrics.url)
            tell = context.console.line
            self._registration = Registration(entry, assignment.token, assignment.certificate, tell)
            self._supervisor.follow_end(self._registration.move_end)
            self._supervisor.guests.tell = self._registration.resize
        return None

    def _print_commands(self) -> Outcome | None:
        for line in announce.next_commands(self._bring_up.spec, self._context.options, self._node.authentication):
            self._context.console.plain(f"           {line}")
        return None

    def _hold(self) -> Outcome:
        self._context.milestone("hold", self._plan.spec.head.host, "holding the cluster until a signal")
        return self._supervise()

    def _run_driver(self) -> Outcome:
        """The driver, until something decides."""
        context, spec = self._context, self._bring_up.spec
        shown = shlex.join(shown_words(context.argv, os.environ))
        context.milestone("driver", spec.head.host, f"driver: {shown[:_SHOWN]}")
        child = self._driver = self._driver or driver.keeper(spec.run_id)
        alive, stop_timeout = len(self._bring_up.alive), context.options.stop_timeout
        driver.start(child, context.argv, self._plan.assignment, spec, stop_timeout, alive)
        self._supervisor.drive(child)
        context.watch.add(child, self._driver_ended)
        return self._supervise()

    def _driver_ended(self, child: Child) -> DriverEnded | RankFailed:
        if child.code == 1 and (hint := driver.hint(self._context.argv)):
            self._context.console.line(hint)
        return driver.ended(self._context.argv, child)

    def _supervise(self) -> Outcome:
        while True:
            outcome = self._supervisor.poll()
            self._metrics.follow(self._bring_up.alive)
            if outcome is not None:
                return outcome

    def _stop_node(self, order: Stop) -> Stopped:
        """Rank 0's own node, while the others stop theirs."""
        problems = self._node.shortages()
        stopped = teardown.stop_rank(self._plan.assignment, HEAD_RANK, self._node.child, order)
        return replace(stopped, problems=(*problems, *stopped.problems))
