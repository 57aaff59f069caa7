"""One process of a trial on its host: the program under a keeper, its reports passed on, its end recorded."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rayhpc.host import network, this_host
from rayhpc.processes import environment
from rayhpc.processes.children import Child, Order, until_gone
from rayhpc.processes.keeper_process import Keeping
from rayhpc.sweep import trials
from rayhpc.sweep.board import STOP, WARN
from rayhpc.sweep.metrics import Report, source
from rayhpc.sweep.plan import Reader
from rayhpc.sweep.report import VARIABLE

# How often reports and orders are looked for; the program's end wakes at once.
_LOOK_SECONDS = 0.25
_MEET_SECONDS = 120.0
_GONE_SECONDS = 10.0
# The end of a program that heeds SIGUSR1 and wants to go on later, and of one that does not know the signal.
_INTERRUPTED = (75, -signal.SIGUSR1)
_LINGER_SECONDS = 0.5
# What a program on this host needs to enter the cluster itself; its address comes with the sweep.
_AUTHENTICATION = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH")
_LADDER = ((int(signal.SIGINT), 2.0), (int(signal.SIGTERM), 3.0))


@dataclass(frozen=True)
class Program:
    """What a process of a trial runs. place: the trial's directory, which all hosts share; stall: in seconds.

    final: whether a failure is recorded, since the trial has no other attempt.
    """

    trial: str
    argv: tuple[str, ...]
    place: str
    cwd: str
    attempt: int
    processes: int
    stall: float
    reader: Reader
    final: bool = True
    environment: Mapping[str, str] = field(repr=False, default_factory=dict)


def run(program: Program, rank: int, board: Any) -> trials.Result:
    """Run the program to its end; how it ended. Rank 0 passes the reports on.

    A trial of one process records its end itself: it is known even if the sweep is killed at that moment.
    """
    began = time.time()
    watched = _Watched(program, rank, board)
    try:
        watched.until_end()
    finally:
        watched.child.end()
        until_gone([watched.child], _GONE_SECONDS)
        board.forget.remote(program.trial, rank)
    result = watched.result(time.time() - began)
    final = result.state == trials.DONE or (result.state == trials.FAILED and program.final)
    if program.processes == 1 and final:
        trials.write_result(Path(program.place), result)
    return result


class _Watched:
    """The program while it runs."""

    def __init__(self, program: Program, rank: int, board: Any) -> None:
        self._program, self._rank, self._board = program, rank, board
        self._place = Path(program.place)
        self._source = source(program.reader, self._place)
        self._last: Report = {}
        self._reason = ""
        self._stopped = self._warned = False
        self._order = board.next_order.remote(program.trial, rank)
        self._heard = time.monotonic()
        self._size = 0
        self._log = self._place / (trials.OUTPUT if rank == 0 else f"output-{rank}.log")
        with self._log.open("ab") as log:
            self.child = Child(Keeping(f"trial/{program.trial}", log.fileno(), log.fileno()))
        (self._place / trials.METRICS).unlink(missing_ok=True)  # an earlier attempt's
        order = Order(program.argv, self._environment(), _LADDER, _LADDER, linger=_LINGER_SECONDS, cwd=program.cwd)
        self.child.run(order)

    def _environment(self) -> dict[str, str]:
        program, inherited = self._program, environment.scrubbed(os.environ)
        return {
            **inherited,
            **environment.python_first(inherited),
            **{name: os.environ[name] for name in _AUTHENTICATION if name in os.environ},
            **program.environment,
            **self._distributed(),
            VARIABLE: str(self._place / trials.METRICS),
            "RAYHPC_TRIAL_ID": program.trial,
            "RAYHPC_TRIAL_DIR": program.place,
        }

    def _distributed(self) -> dict[str, str]:
        """torchrun's variables, for a trial of several processes."""
        if self._program.processes == 1:
            return {}
        import ray

        if self._rank == 0:
            host = ray.util.get_node_ip_address()
            self._board.meet.remote(self._program.trial, f"{host} {network.free_port(host)}")
        address, port = ray.get(self._board.where.remote(self._program.trial), timeout=_MEET_SECONDS).split()
        size = str(self._program.processes)
        return {
            "MASTER_ADDR": address, "MASTER_PORT": port, "WORLD_SIZE": size, "RANK": str(self._rank),
            "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "GROUP_RANK": str(self._rank), "NODE_RANK": str(self._rank),
        }  # fmt: skip

    def until_end(self) -> None:
        """Watch the program until it has ended, or was ended."""
        while not self.child.poll():
            select.select([self.child.fileno()], [], [], _LOOK_SECONDS)
            self._pass_on()
            self._obey()
            self._check_stall()
        self._pass_on()

    def _pass_on(self) -> None:
        if self._rank != 0:
            return
        found = self._source.new()
        if found:
            self._heard = time.monotonic()
            self._last = {**self._last, **found[-1]}
            self._board.post.remote(self._program.trial, found)

    def _obey(self) -> None:
        import ray

        ready, _ = ray.wait([self._order], timeout=0)
        if not ready:
            return
        order = ray.get(self._order)
        self._order = self._board.next_order.remote(self._program.trial, self._rank)
        if order == WARN:
            self._warned = True
            self.child.signal(signal.SIGUSR1)
        else:
            self._stopped, self._reason = order == STOP, order
            self.child.end()

    def _check_stall(self) -> None:
        """End a program that has neither written nor reported for too long."""
        size = self._log.stat().st_size
        if size != self._size:
            self._size, self._heard = size, time.monotonic()
        silent = time.monotonic() - self._heard
        if self._program.stall and silent > self._program.stall and not self._reason:
            self._reason = f"stalled: no output and no report for {self._program.stall:g} s"
            self.child.end()

    def result(self, seconds: float) -> trials.Result:
        """How it ended."""
        code = self.child.code if self.child.code is not None else 127
        reason = self._reason or (self.child.failed[1] if self.child.failed else "")
        return trials.Result(
            state=self._state(code),
            code=code,
            metrics=self._last,
            attempt=self._program.attempt,
            host=this_host.name(),
            seconds=seconds,
            reason=reason,
            problems=tuple(self._source.problems),
        )

    def _state(self, code: int) -> str:
        if self._stopped or (self._warned and code in _INTERRUPTED):
            return trials.STOPPED
        if self._reason == trials.PRUNED:
            return trials.PRUNED
        return trials.DONE if code == 0 and not self._reason else trials.FAILED
