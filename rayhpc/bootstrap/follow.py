"""What every other rank does: start its Ray node, send events to rank 0, and shut down, each when rank 0 asks."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from rayhpc.bootstrap import teardown
from rayhpc.bootstrap.node import START_TRIES, Node
from rayhpc.bootstrap.watch import Watch
from rayhpc.errors import ExitCode, Fault
from rayhpc.host import this_host
from rayhpc.log import Console
from rayhpc.messages import Alive, Leave, Milestone, NodeEnded, RankFailed, RestartNode, SignalArrived, StartNode, Stop
from rayhpc.model import HEAD_RANK, Assignment
from rayhpc.processes.children import Child
from rayhpc.processes.signals import Signals
from rayhpc.ranks.comm import Comm, internal
from rayhpc.ranks.heartbeats import Heartbeats

_HASTE = 0.01
_CALM = 0.1
_LEAVE_SECONDS = 60.0
# Each node that joins makes several connections to the head at once, and is told to all that have joined before.
_AT_ONCE = 500
_JOINS_A_SECOND = 500


def join_delay(rank: int, nodes: int) -> float:
    """Seconds that a worker of a large cluster waits once the head is up, so that not all join in one moment."""
    return rank / _JOINS_A_SECOND if nodes > _AT_ONCE else 0.0


class Follower:
    """A rank that follows rank 0; without a node it only passes signals on."""

    def __init__(self, comm: Comm, assignment: Assignment, node: Node | None, signals: Signals) -> None:
        self._comm, self._assignment, self._node = comm, assignment, node
        self._watch = Watch(comm, signals, _HASTE)
        self._heartbeats = Heartbeats(comm.size, {HEAD_RANK})
        self._address = ""
        self._start_at = float("inf")
        self._tries = 0
        self._restart = 0

    def run(self) -> None:
        """Follow until rank 0 says leave; when rank 0 is lost, shut down what is here and end all ranks."""
        try:
            self._warm_up()
            order = self._follow()
        except Exception as error:  # a bug of ours must not strand the others
            self._comm.send(HEAD_RANK, RankFailed(self._comm.rank, internal(error).on(self._place, time.time())))
            order = self._follow()
        child = self._node.child if self._node else None
        if self._node is not None:
            self._node.keep_first_words()
        answer = teardown.stop_rank(self._assignment, self._comm.rank, child, order or Stop(False, 0))
        self._comm.send(HEAD_RANK, answer)
        if order is None:
            self._end_all()
        if not self._dismissed():
            self._comm.abort(int(ExitCode.NODE_LOST))
        self._comm.leave()

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

    def _follow(self) -> Stop | None:
        """Work until told to stop; None if rank 0 has ended, or has not been heard of for too long."""
        while True:
            for rank, mail in self._watch.wait():
                self._heartbeats.heard(rank)
                if isinstance(mail, Stop):
                    return mail
                self._take(mail)
            if time.monotonic() >= self._start_at:
                self._start_at = float("inf")
                self._start()
            # Asked after the mail, which may have waited while this process was stopped.
            if self._gone or self._heartbeats.missed():
                return None
            if self._heartbeats.due():
                self._comm.send(HEAD_RANK, Alive())

    def _take(self, mail: Any) -> None:
        match mail:
            case StartNode(address=address):
                self._address = address
                self._watch.every = _CALM
                self._start_at = time.monotonic() + join_delay(self._comm.rank, self._assignment.nodes)
            case RestartNode(ordinal=ordinal):
                self._start_again(ordinal)
            case SignalArrived() | NodeEnded() | Milestone():
                self._comm.send(HEAD_RANK, mail)
            case _:
                pass

    def _warm_up(self) -> None:
        """Let the node's command import Ray while the head starts."""
        if self._node is not None:
            self._watch.add(self._node.warm_up(), self._node_ended)

    def _start(self) -> None:
        assert self._node is not None
        self._tries += 1
        self._comm.send(HEAD_RANK, Milestone(self._comm.rank, this_host.name(), "start", time.time()))
        self._watch.add(self._node.start(0, self._address), self._node_ended)

    def _start_again(self, ordinal: int) -> None:
        """Another node in the place of one that ended, hangs, or was given up by the head."""
        assert self._node is not None
        if self._node.child is not None:
            self._watch.forget(self._node.child)
        self._node.clear()
        self._restart, self._tries = ordinal, 0
        self._start()

    def _node_ended(self, child: Child) -> NodeEnded | Milestone:
        """The event of the node's end; bad luck is answered with another start."""
        assert self._node is not None
        reason = self._node.worth_another_try()
        if self._tries >= START_TRIES or not reason or not self._address:
            return replace(self._node.ended(child), restart=self._restart)
        self._node.clear()
        self._start()
        return self._node.started_again(reason)

    def _dismissed(self) -> bool:
        """Wait for rank 0's last word; False if it does not come."""
        end = time.monotonic() + _LEAVE_SECONDS
        while time.monotonic() < end:
            received = self._comm.receive()
            if received is None and self._gone:
                return False
            if received is None:
                time.sleep(0.002)
            elif isinstance(received[1], Leave):
                return True
        return False
