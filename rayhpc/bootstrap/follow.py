"""What every other rank does: start its Ray node, send events to rank 0, and shut down, each when rank 0 asks."""

from __future__ import annotations

import time
from dataclasses import replace

from rayhpc.bootstrap import teardown
from rayhpc.bootstrap.node import Node
from rayhpc.bootstrap.watch import Watch
from rayhpc.errors import ExitCode, Fault, assert_never
from rayhpc.host import this_host
from rayhpc.log import Console
from rayhpc.messages import (
    Alive,
    Contribution,
    DriverEnded,
    EndNode,
    HeadSilent,
    Leave,
    Mail,
    Milestone,
    NodeDead,
    NodeEnded,
    NodeLate,
    RankFailed,
    RankSilent,
    RestartNode,
    SignalArrived,
    StartNode,
    Stop,
    Stopped,
    TimeUp,
)
from rayhpc.model import HEAD_RANK, Assignment
from rayhpc.processes.children import Child
from rayhpc.ranks.comm import Comm, internal, pause
from rayhpc.ranks.heartbeats import Heartbeats

_LEAVE_SECONDS = 60.0
# Each node that joins makes several connections to the head at once, and all that have joined before learn of it.
_AT_ONCE = 500
_JOINS_A_SECOND = 500


def join_delay(rank: int, nodes: int) -> float:
    """Seconds that a worker of a large cluster waits once the head is up, so that not all join in one moment."""
    return rank / _JOINS_A_SECOND if nodes > _AT_ONCE else 0.0


class Worker:
    """The Ray node of a rank that follows: when it starts, and starts again. address: the head's, once that is up."""

    def __init__(self, comm: Comm, node: Node, watch: Watch) -> None:
        self.node = node
        self._comm, self._watch = comm, watch
        self._address = ""
        self._start_at = float("inf")

    def warm_up(self) -> None:
        """Let the node's command import Ray while the head starts."""
        self._watch.add(self.node.warm_up(), self._ended)

    def start_later(self, address: str, delay: float) -> None:
        """Start the node after so many seconds; address: the head's."""
        self._address, self._start_at = address, time.monotonic() + delay
        self._watch.slow_down()

    def start_if_due(self) -> None:
        """Start the node once its time has come."""
        if time.monotonic() >= self._start_at:
            self._start_at = float("inf")
            self._start()

    def start_again(self, ordinal: int) -> None:
        """Another node in the place of one that ended, hangs, or was given up by the head."""
        if self.node.child is not None:
            self._watch.forget(self.node.child)
        self.node.begin_restart(ordinal)
        self._start()

    def end(self) -> None:
        """End a node whose place a spare has taken, also one that is late."""
        self._start_at = float("inf")
        if self.node.child is not None:
            self._watch.forget(self.node.child)
        self.node.end()

    def _start(self) -> None:
        self._comm.send(HEAD_RANK, Milestone(self._comm.rank, this_host.name(), "start", time.time()))
        self._watch.add(self.node.start(0, self._address), self._ended)

    def _ended(self, child: Child) -> NodeEnded | Milestone:
        return self.node.ended_or_started_again(child, self._start)


class Follower:
    """A rank that follows rank 0; without a node it only passes signals on."""

    def __init__(self, comm: Comm, assignment: Assignment, node: Node | None, watch: Watch) -> None:
        self._comm, self._assignment, self._watch = comm, assignment, watch
        self._worker = Worker(comm, node, watch) if node else None
        self._heartbeats = Heartbeats(comm.size, {HEAD_RANK})

    def run(self) -> None:
        """Follow until rank 0 says leave; when rank 0 is lost, shut down what is here and end all ranks."""
        try:
            if self._worker:
                self._worker.warm_up()
            if self._assignment.spare:
                self._watch.doze()
            elif self._worker is None:  # no node of this rank has to be watched
                self._watch.slow_down()
            order = self.follow()
        except Exception as error:  # a bug of ours must not strand the others
            self._comm.send(HEAD_RANK, RankFailed(self._comm.rank, internal(error).on(self._place, time.time())))
            order = self.follow()
        self._comm.send(HEAD_RANK, self._stop(order or Stop(False, 0)))
        if order is None:
            self._end_all()
        if not self._dismissed():
            self._comm.abort(int(ExitCode.NODE_LOST))
        self._comm.leave()

    def follow(self) -> Stop | None:
        """Work until rank 0 orders to stop; None if it has ended, or nothing has come from it for too long."""
        while True:
            for rank, mail in self._watch.wait():
                self._heartbeats.heard(rank)
                if isinstance(mail, Stop):
                    return mail
                self._process(mail)
            if self._worker:
                self._worker.start_if_due()
            # Asked after the mail, which may have waited while this process was stopped.
            if self._gone or self._heartbeats.missed():
                return None
            if self._heartbeats.due():
                self._comm.send(HEAD_RANK, Alive())

    def _process(self, mail: Mail) -> None:
        match mail:
            case StartNode(address=address):
                if self._worker:
                    self._worker.start_later(address, join_delay(self._comm.rank, self._assignment.nodes))
            case RestartNode(ordinal=ordinal):
                if self._worker:
                    self._worker.start_again(ordinal)
            case EndNode():
                if self._worker:
                    self._worker.end()
            case SignalArrived() | NodeEnded() | Milestone():
                self._comm.send(HEAD_RANK, mail)
            case Alive() | Stop() | Leave():
                pass
            case NodeDead() | NodeLate() | HeadSilent() | RankSilent() | RankFailed() | DriverEnded() | TimeUp():
                pass  # rank 0's own events, which it sends to nobody
            case Stopped() | Contribution():
                pass  # to rank 0 alone
            case _:
                assert_never(mail)

    def _stop(self, order: Stop) -> Stopped:
        node = self._worker.node if self._worker else None
        problems = node.shortages() if node else ()
        stopped = teardown.stop_rank(self._assignment, self._comm.rank, node.child if node else None, order)
        return replace(stopped, problems=(*problems, *stopped.problems))

    def _end_all(self) -> None:
        """Say why and end every rank: nobody else can, once rank 0 is gone."""
        how = "has ended" if self._gone else f"has not been heard of for {self._heartbeats.patience:.0f} s"
        fault = Fault(
            f"the head is lost: rank 0 {how}",
            ExitCode.HEAD_LOST,
            self._place,
            next_step="look after rank 0's host and its process there",
        )
        Console(time.time()).plain(fault.text())
        self._comm.abort(int(fault.code))

    @property
    def _gone(self) -> bool:
        """The connection to rank 0 has ended; over MPI the launcher notices that, and ends all."""
        return HEAD_RANK in self._comm.gone

    @property
    def _place(self) -> str:
        return f"rank {self._comm.rank} on {this_host.name()}"

    def _dismissed(self) -> bool:
        """Wait for rank 0's last message; False if it does not come."""
        began = time.monotonic()
        while (waited := time.monotonic() - began) < _LEAVE_SECONDS:
            match self._comm.receive():
                case (_, Leave()):
                    return True
                case None if self._gone:
                    return False
                case None:
                    time.sleep(pause(waited))
                case _:
                    pass
        return False
