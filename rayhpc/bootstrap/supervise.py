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
from rayhpc.bootstrap.guests import Guests
from rayhpc.bootstrap.lost_nodes import Roster
from rayhpc.bootstrap.node_table import NodeTable
from rayhpc.bootstrap.run_context import RunContext
from rayhpc.errors import counted, signal_name
from rayhpc.messages import (
    ENDING,
    Alive,
    Contribution,
    EndNode,
    Event,
    HeadSilent,
    Leave,
    Loss,
    Mail,
    Milestone,
    NodeDead,
    NodeEnded,
    NodeLate,
    RankSilent,
    RestartNode,
    SignalArrived,
    StartNode,
    Stop,
    Stopped,
    TimeUp,
)
from rayhpc.model import HEAD_RANK, AliveNode, BadHost, ClusterSpec, NodeSpec, Outcome
from rayhpc.processes.children import Child
from rayhpc.processes.environment import TIGHT_HEALTH_NODES
from rayhpc.ranks.heartbeats import Heartbeats

# What the driver's ladder and the teardown need before the scheduler kills.
LAST_SECONDS = 6.0


class Supervisor:
    """Receives events, informs the user, forwards signals to the driver, and asks decide().

    table: the head's node table; roster: what it has said of each rank; bad_hosts: each with the first reason.
    """

    def __init__(self, context: RunContext, spec: ClusterSpec, table: NodeTable) -> None:
        options = context.options
        self.history: list[Event] = []
        self.bad_hosts: dict[str, BadHost] = {}
        self.table = table
        self.driver: Child | None = None
        self.policy = Policy(
            nodes=spec.nodes,
            log_dir=spec.run_dir,
            abort_on_loss=options.on_node_loss == "abort",
            spare=max(0, len(spec.nodes) - options.min_nodes) if options.min_nodes else 0,
        )
        self.roster = Roster(options.restart_nodes, spec.nodes, spec.spares)
        self._spec, self._options = spec, options
        self._comm, self._watch = context.comm, context.watch
        self._console, self._log = context.console, context.log
        self.guests = Guests(context, spec.head.host)
        self._compared: Sequence[AliveNode] = ()
        self._head_address, self._start_seconds = "", 0.0
        self._late_at: dict[int, float] = {}
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

    def start_workers(self, address: str, seconds: float) -> None:
        """Let the workers start; a spare that takes a place later starts at once. seconds: until it must be alive."""
        self._head_address, self._start_seconds = address, seconds
        for node in self.roster.nodes[1:]:
            self._start(node)

    def replace_late(self, late: Sequence[NodeSpec]) -> bool:
        """Let spares take the place of nodes that are late, as many as there are; True while a spare has time left."""
        now = time.monotonic()
        over = [node for node in late if node.rank not in self.roster.lost and self._late_at.get(node.rank, now) <= now]
        for node in over[: len(self.roster.waiting)]:
            self.note(NodeLate(node.rank, node.host, self._start_seconds))
        return any(at > now and rank not in self.roster.lost for rank, at in self._late_at.items())

    def accept(self) -> None:
        """The cluster is up: a node that is missing now is forgiven; the policy decides about a later loss."""
        self.policy = replace(self.policy, up=True, forgiven=frozenset(self.roster.lost))
        self._late_at.clear()
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
            case StartNode() | RestartNode() | EndNode() | Stop() | Leave():
                pass  # to the other ranks alone
            case Milestone():
                since = {} if mail.since is None else {"since": mail.since}
                self._log.write(mail.stage, mail.rank, mail.host, mail.at, **since)
                if mail.warning:
                    self._console.line(f"WARNING: rank {mail.rank} on {mail.host}: {mail.warning}")
            case _:
                self.note(mail, rank)

    def call_bad(self, host: str, reason: str) -> None:
        """Remember for the run's outcome that a host was bad, and why."""
        self.bad_hosts.setdefault(host, BadHost(host, reason, time.time()))

    def note(self, event: Event, rank: int = HEAD_RANK) -> None:
        """Add an event to the history, inform the user, react; a loss that is mended is no event."""
        if isinstance(event, NodeEnded | NodeDead | NodeLate | RankSilent) and self._is_mended(event):
            return
        self.history.append(event)
        self._log.write(type(event).__name__, rank, self._spec.host(rank), event=event)
        match event:
            case SignalArrived():
                self._on_signal(event)
            case TimeUp(final=final):
                self._on_time(final)
            case NodeEnded() | NodeDead() | NodeLate() | RankSilent():
                self._on_loss(event)
            case _:
                pass

    def _is_mended(self, event: Loss) -> bool:
        """True if nothing of the cluster is lost: a worker's node is started again, or a spare takes its place."""
        if event.rank in self.roster.out:
            return True
        if self.roster.give_up(event.rank):
            self.call_bad(event.host, loss(event))
            self._log.write("spare lost", event.rank, event.host, event=event)
            self._console.line(f"LOST spare rank {event.rank} on {event.host}: {loss(event)}; {self._spares_left()}")
            return True
        if event.rank == HEAD_RANK or self._end_driver_at is not None:
            return False
        return self._restarts_node(event) or self._is_replaced(event)

    def _restarts_node(self, event: Loss) -> bool:
        """True if a lost node is started again, or was already: its end may be reported twice."""
        rank = event.rank
        if not self.policy.up or not isinstance(event, NodeEnded | NodeDead):
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

    def _is_replaced(self, event: Loss) -> bool:
        """True if a spare takes the place of a lost node."""
        spare = self.roster.replace(event.rank)
        if spare is None:
            return False
        self.call_bad(event.host, loss(event))
        self._late_at.pop(event.rank, None)
        self._log.write("replaced", event.rank, event.host, event=event, by=spare.rank)
        how = f"{spare.place} takes its place; {self._spares_left()}"
        self._console.line(f"LOST rank {event.rank} on {event.host}: {loss(event)}; {how}")
        self._comm.send(event.rank, EndNode())
        self._start(spare)
        if self._head_address:
            self._late_at[spare.rank] = time.monotonic() + self._start_seconds
        return True

    def _spares_left(self) -> str:
        return f"{counted(len(self.roster.waiting), 'spare rank')} left"

    def _start(self, node: NodeSpec) -> None:
        if self._head_address:
            self._comm.send(node.rank, StartNode(self._head_address))

    def _on_loss(self, event: Loss) -> None:
        """Print once that a node is lost, and how many are left."""
        if event.rank in self.roster.lost:
            return
        self.roster.lost.add(event.rank)
        ending = self._end_driver_at is not None
        if event.rank != HEAD_RANK and not ending:
            self.call_bad(event.host, loss(event))
        if event.rank != HEAD_RANK and self.policy.up and not self.policy.abort_on_loss and not ending:
            left = f"the run goes on with {counted(self.roster.whole, 'node')}"
            self._console.line(f"LOST rank {event.rank} on {event.host}: {loss(event)}; {left}")

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
            self.guests.look(self.table.nodes)
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
            self._say_whole(rank, "is back")
        for rank, first in self.roster.arrived():
            self._late_at.pop(rank, None)
            self._say_whole(rank, f"has taken the place of rank {first} on {self._spec.host(first)}")

    def _say_whole(self, rank: int, what: str) -> None:
        count = f"{self.roster.whole}/{len(self.roster.nodes)} Ray nodes"
        self._console.line(f"rank {rank} on {self._spec.host(rank)} {what}: {count}")

    def _look_at_clock(self) -> None:
        for rank, seconds in self._heartbeats.missed(self._comm.gone):
            self.note(RankSilent(rank, self._spec.host(rank), seconds, closed=rank in self._comm.gone))
        for rank in [rank for rank, at in self._late_at.items() if self.policy.up and time.monotonic() > at]:
            del self._late_at[rank]
            self.note(NodeLate(rank, self._spec.host(rank), self._start_seconds))
        self._beat()
        if self._end_driver_at is not None and self.driver is not None and time.monotonic() > self._end_driver_at:
            self._end_driver_at = float("inf")
            self._console.line("the driver has not ended: ending it")
            self.driver.end()
        self._look_at_deadline()

    def _beat(self) -> None:
        """Let the other ranks hear of this one, when it is time."""
        if self._heartbeats.due():
            for rank in self._heartbeats.expected:
                self._comm.send(rank, Alive())

    def _look_at_deadline(self) -> None:
        if any(isinstance(event, TimeUp) and event.final for event in self.history):
            return
        grace = self._options.grace
        if moved := self._end.refresh(LAST_SECONDS if self._warned else grace):
            self._on_new_end(moved)
        left = self._end.left
        if left <= LAST_SECONDS:
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
