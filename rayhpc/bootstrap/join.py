"""Rank 0 of a job whose nodes join the cluster of another run, and leave it in order before their job's end."""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from rayhpc import paths
from rayhpc.bootstrap.lead import Leader, Stage
from rayhpc.bootstrap.node_table import NodeTable
from rayhpc.bootstrap.run_context import RunContext
from rayhpc.bootstrap.supervise import LAST_SECONDS, Supervisor
from rayhpc.errors import ExitCode, Fault, counted, signal_name
from rayhpc.host import network
from rayhpc.host.network import Knock
from rayhpc.messages import ENDING, Mail, NodeEnded, SignalArrived
from rayhpc.model import ClusterSpec, Outcome

_KNOCK_SECONDS = 2.0
_FAST = 0.1


class Port:
    """The GCS of the cluster, at which a thread knocks, and the run's own directory, where it looks for a request.

    closed: the port refuses connections, so the cluster has ended; asked: somebody wants the nodes to leave.
    """

    def __init__(self, address: str, run_dir: str) -> None:
        self.closed = self.asked = False
        self._address, self._run_dir = address, Path(run_dir)
        self._done = threading.Event()
        threading.Thread(target=self._run, name="port", daemon=True).start()

    def close(self) -> None:
        """Knock no more."""
        self._done.set()

    def _run(self) -> None:
        while not self.closed and not self._done.wait(_KNOCK_SECONDS):
            self.closed = network.knock(self._address, _KNOCK_SECONDS) is Knock.REFUSED
            with contextlib.suppress(OSError):  # a file server that is away for a while: the next look finds it again
                self.asked = self.asked or paths.LEAVE in os.listdir(self._run_dir)


class GuestSupervisor(Supervisor):
    """As in any run, and two more ends: the cluster's own, and the time to leave.

    patience: seconds that the nodes have to finish their work once poll() has said that they leave.
    """

    def __init__(self, context: RunContext, spec: ClusterSpec, table: NodeTable) -> None:
        super().__init__(context, spec, table)
        self.port = Port(spec.address, spec.run_dir)
        self.patience = 0.0

    def poll(self) -> Outcome | None:
        """The outcome once an event has decided; the cluster's end explains whatever came of it."""
        outcome = super().poll()
        if outcome is not None and outcome.fault is not None and not self.port.closed:
            self.port.closed = network.knock(self._spec.address, _KNOCK_SECONDS) is Knock.REFUSED
        if self.port.closed and (outcome is None or outcome.fault is not None):
            return _cluster_ended(self._spec, self.policy.up)
        if outcome is None and self.policy.up:
            outcome = self._time_to_leave()
        elif outcome is not None and outcome.fault is None and self.policy.up:
            self.patience = self._options.stop_timeout
        return outcome

    def exchange(self) -> list[Mail]:
        """The mail of a cluster that is being left; the other ranks hear of this one as before."""
        found = self._watch.wait()
        for rank, _ in found:
            self._heartbeats.heard(rank)
        self._beat()
        return [mail for _, mail in found]

    @property
    def left(self) -> float:
        """Seconds until the nodes must have left."""
        return self._end.left - LAST_SECONDS

    def _time_to_leave(self) -> Outcome | None:
        signals = [event.signum for event in self.history if isinstance(event, SignalArrived)]
        if signals or (self._end.left <= self._options.grace and self._end.certain):
            self.patience = self._options.grace
            return Outcome(0, f"left on {signal_name(signals[0])}" if signals else "left before the end of the job")
        if self.port.asked:
            self.patience = self._options.grace
            return Outcome(0, "asked to leave")
        return None


def _cluster_ended(spec: ClusterSpec, up: bool) -> Outcome:
    if up:
        return Outcome(0, f"the cluster at {spec.address} has ended")
    fault = Fault(
        f"the nodes were joining when the cluster at {spec.address} ended",
        ExitCode.NOT_READY,
        next_step="rayhpc cluster list shows those that run",
    )
    return Outcome.of(fault)


class Joiner(Leader):
    """One run that brings nodes to another's cluster."""

    supervisor = GuestSupervisor
    _supervisor: GuestSupervisor

    def stages(self) -> Sequence[Stage]:
        """The run, in order."""
        return (
            self._introduce,
            self._bring_up.launch_head,
            self._bring_up.await_head,
            self._bring_up.start_workers,
            self._bring_up.accept,
            self._stay,
        )

    def _stay(self) -> Outcome:
        """At work for the cluster, until something decides; then the nodes leave."""
        left = self._supervisor.left
        until = "" if left == math.inf else time.strftime(" until %H:%M:%S", time.localtime(time.time() + left))
        self._context.milestone("hold", self._plan.spec.head.host, f"at work for the cluster{until}")
        outcome = self._supervise()
        if outcome.fault is None and not self._supervisor.port.closed:
            self._leave(min(self._supervisor.patience, self._supervisor.left))
        self._supervisor.port.close()
        return outcome

    def _leave(self, seconds: float) -> None:
        """Drain the nodes: wait until each has ended, a signal comes again, or the time is over."""
        nodes, host, gone = self._plan.spec.nodes, self._plan.spec.head.host, set(self._supervisor.roster.lost)
        seconds = max(0.0, seconds)
        end, many = time.monotonic() + seconds, counted(len(nodes), "node")
        self._context.milestone("drain", host, f"{many} to leave: no new work, {seconds:.0f} s for the old")
        self._table.every = _FAST
        self._table.drain(time.time() + seconds)
        hastened = False
        while len(gone) < len(nodes) and time.monotonic() < end and not hastened:
            for mail in self._supervisor.exchange():
                if isinstance(mail, NodeEnded):
                    gone.add(mail.rank)
                hastened = hastened or (isinstance(mail, SignalArrived) and mail.signum in ENDING)
            # A raylet that was drained ends by itself, and its `ray start` goes on.
            gone |= {node.rank for node in nodes} - {node.rank for node in self._table.nodes or ()}
        rest = len(nodes) - len(gone)
        how = f"; {counted(rest, 'node')} still had work: it is lost" if rest else " in order"
        if not self._table.drained and rest:
            how = f"; WARNING: Ray has not taken the order to drain: {self._table.last_error or 'no answer'}"
        self._context.milestone("drained", host, f"{len(gone)} of {many} left{how}")
