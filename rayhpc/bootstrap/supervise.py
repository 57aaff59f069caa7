"""Stage 6: everything that happens to a run, as events in one place; the first event that decides ends the run."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from rayhpc import paths
from rayhpc.bootstrap.deadline import EndOfJob, question
from rayhpc.bootstrap.decision import Policy, decide, loss
from rayhpc.bootstrap.lost_nodes import Roster
from rayhpc.bootstrap.node_table import NodeTable
from rayhpc.bootstrap.run_context import RunContext
from rayhpc.errors import counted, signal_name
from rayhpc.messages import (
    ENDING,
    Alive,
    Contribution,
    Event,
    HeadSilent,
    Leave,
    Mail,
    Milestone,
    NodeDead,
    NodeEnded,
    RankSilent,
    RestartNode,
    SignalArrived,
    StartNode,
    Stop,
    Stopped,
    TimeUp,
)
from rayhpc.model import HEAD_RANK, AliveNode, ClusterSpec, Outcome
from rayhpc.processes.children import Child
from rayhpc.processes.environment import TIGHT_HEALTH_NODES
from rayhpc.ranks.heartbeats import Heartbeats

# What the driver's ladder and the teardown need before the scheduler kills.
_LAST_SECONDS = 6.0


class Supervisor:
    """Receives events, informs the user, forwards signals to the driver, and asks decide().

    table: the head's node table; roster: what it has said of each rank.
    """

    def __init__(self, context: RunContext, spec: ClusterSpec, table: NodeTable) -> None:
        options = context.options
        self.history: list[Event] = []
        self.table = table
        self.driver: Child | None = None
        self.policy = Policy(
            nodes=spec.nodes,
            log_dir=spec.run_dir,
            abort_on_loss=options.on_node_loss == "abort",
            spare=max(0, len(spec.nodes) - options.min_nodes) if options.min_nodes else 0,
        )
        self.roster = Roster(options.restart_nodes)
        self._spec, self._options = spec, options
        self._comm, self._watch = context.comm, context.watch
        self._console, self._log = context.console, context.log
        self._compared: Sequence[AliveNode] = ()
        self._forwarded: dict[int, int] = {}
        self._end_driver_at: float | None = None
        self._heartbeats = Heartbeats(context.comm.size, set(range(1, context.comm.size)))
        self._end = EndOfJob(spec.deadline, question(options, os.environ), Path(paths.deadline_file(spec.run_dir)))
        self._warned = False
        self._tell_end: Callable[[float], None] = lambda _: None

    def poll(self) -> Outcome | None:
        """Wait a little for events and process them; the outcome once an event has decided."""
        for rank, mail in self._watch.wait():
            self._heartbeats.heard(rank)
            self._process(rank, mail)
        self._look_at_table()
        self._look_at_clock()
        return decide(self.history, self.policy)

    def accept(self) -> None:
        """The cluster is up: a node that is missing now is forgiven; the policy decides about a later loss."""
        self.policy = replace(self.policy, up=True, forgiven=frozenset(self.roster.lost))
        if self._end.at < math.inf:
            self._write_end()

    def drive(self, driver: Child) -> None:
        """The driver runs: it gets the signals, and its exit code is the run's."""
        self.driver = driver
        self.policy = replace(self.policy, driven=True)

    def follow_end(self, tell: Callable[[float], None]) -> None:
        """Call `tell` with the end of the job as it is now, and with each other that the scheduler gives it."""
        self._tell_end = tell
        tell(self._end.at)

    def doubtful(self) -> frozenset[int]:
        """Ranks that have sent nothing for a while, and may no longer answer."""
        return self._heartbeats.quiet()

    def _process(self, rank: int, mail: Mail) -> None:
        match mail:
            case Alive() | Stopped() | Contribution():
                pass  # a rank that stops before its order has lost us, which it reports itself
            case StartNode() | RestartNode() | Stop() | Leave():
                pass  # to the other ranks alone
            case Milestone():
                since = {} if mail.since is None else {"since": mail.since}
                self._log.write(mail.stage, mail.rank, mail.host, mail.at, **since)
                if mail.warning:
                    self._console.line(f"WARNING: rank {mail.rank} on {mail.host}: {mail.warning}")
            case _:
                self.note(mail, rank)

    def note(self, event: Event, rank: int = HEAD_RANK) -> None:
        """Add an event to the history, inform the user, react; the loss of a node that is started again is no event."""
        if isinstance(event, NodeEnded | NodeDead) and self._restarts_node(event):
            return
        self.history.append(event)
        self._log.write(type(event).__name__, rank, self._spec.host(rank), event=event)
        match event:
            case SignalArrived():
                self._on_signal(event)
            case TimeUp(final=final):
                self._on_time(final)
            case NodeEnded() | NodeDead() | RankSilent():
                self._on_loss(event)
            case _:
                pass

    def _restarts_node(self, event: NodeEnded | NodeDead) -> bool:
        """True if a worker's lost node is started again, or was already: its end may be reported twice."""
        rank = event.rank
        if rank == HEAD_RANK or not self.policy.up or self._end_driver_at is not None:
            return False
        if isinstance(event, NodeEnded) and event.restart < self.roster.restarts(rank):
            return True
        ordinal = self.roster.restart(rank)
        if ordinal:
            self._log.write("restart", rank, event.host, event=event)
            how = f"its node is started again ({ordinal} of {self.roster.limit})"
            self._console.line(f"LOST rank {rank} on {event.host}: {loss(event)}; {how}")
            self._comm.send(rank, RestartNode(ordinal))
        return ordinal > 0

    def _on_loss(self, event: NodeEnded | NodeDead | RankSilent) -> None:
        """Print once that a node is lost, and how many are left."""
        if event.rank in self.roster.lost:
            return
        self.roster.lost.add(event.rank)
        ending = self._end_driver_at is not None
        if event.rank != HEAD_RANK and self.policy.up and not self.policy.abort_on_loss and not ending:
            left = sum(node.rank not in self.roster.lost for node in self._spec.nodes)
            self._console.line(
                f"LOST rank {event.rank} on {event.host}: {loss(event)}; the run goes on with {counted(left, 'node')}"
            )

    def _on_signal(self, event: SignalArrived) -> None:
        """Pass a signal to the driver once, however many ranks got it; the second INT or TERM hastens the end."""
        if self.driver is None or event.ordinal <= self._forwarded.get(event.signum, 0):
            return
        self._forwarded[event.signum] = event.ordinal
        name = signal_name(event.signum)
        if event.signum not in ENDING:
            self._console.line(f"{name}: passed to the driver")
            self.driver.signal(event.signum)
        elif self._end_driver_at is None:
            seconds = self._options.stop_timeout
            self._console.line(f"{name}: passed to the driver, which has {seconds:g} s to end")
            self.driver.signal(event.signum)
            self._end_driver_at = time.monotonic() + seconds
        else:
            self._console.line(f"{name} again: ending the driver now")
            self.driver.end()

    def _on_time(self, final: bool) -> None:
        if self.driver is None:
            return
        if final:
            self._console.line("the end of the job: ending the driver")
            self.driver.end()
        else:
            self._console.line(
                f"the job ends in {self._options.grace:g} s: SIG{self._options.grace_signal} to the driver"
            )
            self.driver.signal(signal.Signals[f"SIG{self._options.grace_signal}"])

    def _look_at_table(self) -> None:
        if self.table.nodes is None:
            return
        if self.table.nodes is not self._compared:  # an answer is asked for less often than mail is looked for
            self._compared = self.table.nodes
            self._compare(self.table.nodes)
        # A head that has not been alive yet may be started again: its own end tells.
        closed = self.table.closed and HEAD_RANK in self.roster.seen
        silent = closed or self.table.silence > head_silence(len(self._spec.nodes))
        if silent and not any(isinstance(event, HeadSilent) for event in self.history):
            self.note(HeadSilent(self.table.silence, closed))

    def _compare(self, nodes: Sequence[AliveNode]) -> None:
        """Which ranks are new in the node table, which are lost, which are back."""
        before = self.roster.seen
        gone, back = self.roster.update(nodes)
        for rank in sorted(self.roster.seen - before):
            self._log.write("alive", rank, self._spec.host(rank))
        for rank in gone:
            self.note(NodeDead(rank, self._spec.host(rank)))
        for rank in back:
            self._log.write("back", rank, self._spec.host(rank))
            alive = f"{len(self._spec.nodes) - len(self.roster.lost)}/{len(self._spec.nodes)} Ray nodes"
            self._console.line(f"rank {rank} on {self._spec.host(rank)} is back: {alive}")

    def _look_at_clock(self) -> None:
        for rank, seconds in self._heartbeats.missed(self._comm.gone):
            self.note(RankSilent(rank, self._spec.host(rank), seconds, closed=rank in self._comm.gone))
        if self._heartbeats.due():
            for rank in self._heartbeats.expected:
                self._comm.send(rank, Alive())
        if self._end_driver_at is not None and self.driver is not None and time.monotonic() > self._end_driver_at:
            self._end_driver_at = float("inf")
            self._console.line("the driver has not ended: ending it")
            self.driver.end()
        self._look_at_deadline()

    def _look_at_deadline(self) -> None:
        if any(isinstance(event, TimeUp) and event.final for event in self.history):
            return
        grace = self._options.grace
        if moved := self._end.refresh(_LAST_SECONDS if self._warned else grace):
            self._on_new_end(moved)
        left = self._end.left
        if left <= _LAST_SECONDS:
            self.note(TimeUp(final=True))
        elif left <= grace and not self._warned and self.driver is not None and self._end.certain:
            self._warned = True
            self.note(TimeUp(final=False))

    def _on_new_end(self, moved: float) -> None:
        """The scheduler has given the job another end: a later one means another signal."""
        self._warned = self._warned and self._end.left <= self._options.grace
        self._console.line(f"the end of the job has moved: {_moved(self._end.at, moved)}")
        self._log.write("deadline", HEAD_RANK, self._spec.host(HEAD_RANK), end=self._end.at)
        self._tell_end(self._end.at)
        self._write_end()

    def _write_end(self) -> None:
        try:
            self._end.write()
        except OSError as error:
            self._console.line(f"WARNING: the driver is not told: {error.filename}: {error.strerror}")


def _moved(end: float, seconds: float) -> str:
    """14:30:00, 30 min later."""
    if end == math.inf:
        return "there is none now"
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(end))
    return f"{at}, {abs(seconds) / 60:.0f} min {'later' if seconds > 0 else 'earlier'}" if seconds > -math.inf else at


def head_silence(nodes: int) -> float:
    """Seconds without an answer from the GCS after which the head counts as lost."""
    return 12.0 if nodes <= TIGHT_HEALTH_NODES else 60.0
