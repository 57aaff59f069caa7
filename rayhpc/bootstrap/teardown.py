"""Stage 7: every rank ends exactly what it started, and rank 0 records how the run ended; the run directory stays."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rayhpc import paths
from rayhpc.bootstrap import private_directory
from rayhpc.bootstrap.run_context import RunContext
from rayhpc.errors import shortened
from rayhpc.messages import Leave, Stop, Stopped
from rayhpc.model import HEAD_RANK, Assignment, BadHost, ClusterSpec, Outcome
from rayhpc.options import Options
from rayhpc.processes import children, environment
from rayhpc.processes.children import Child, until_gone
from rayhpc.ranks.comm import Comm, pause
from rayhpc.records import bad_hosts, outcome_file, run_directory
from rayhpc.records.registration import Registration

# Ray's logs of one run, packed into one archive, of which each node gets an equal share.
LOGS_LIMIT = 64 * 2**20
_LOGS_LEAST = 256 * 1024
# A tree is gone 0.1 s after SIGKILL; a process that hangs in the kernel is not waited for much longer than that.
_GONE_SECONDS = 8.0


@dataclass(frozen=True)
class Timing:
    """Seconds that rank 0 waits for the other ranks to stop.

    stopped: for ranks that answer, side by side; large archives need a moment. doubtful: for ranks of which nothing was
    heard for a while.
    """

    stopped: float = 15.0
    doubtful: float = 2.0


@dataclass(frozen=True)
class Leftovers:
    """What is there when a run ends. doubtful: ranks that may no longer answer; stop_node: stops rank 0's node.

    figures: of the run's metrics, for the record; empty without; bad_hosts: for the record and for later submissions.
    """

    driver: Child | None
    registration: Registration | None
    doubtful: frozenset[int]
    stop_node: Callable[[Stop], Stopped]
    figures: Mapping[str, Any] = field(default_factory=dict)
    bad_hosts: tuple[BadHost, ...] = ()


# On every rank.


def end_child(child: Child | None) -> list[str]:
    """End a child and all its descendants; a line for each thing that could not be ended."""
    if child is None:
        return []
    child.end()
    if until_gone([child], _GONE_SECONDS):
        return [f"keeper {child.keeper_pid} has not ended within {_GONE_SECONDS:g} s"]
    return [f"{child.left} processes survive SIGKILL"] if child.left else []


def stop_rank(assignment: Assignment, rank: int, node: Child | None, order: Stop) -> Stopped:
    """End this rank's node, take its logs if wanted, remove its private directory."""
    problems = end_child(node)
    killed = node.killed if node else 0
    killed += children.sweep(environment.marker(assignment.run_id, rank), frozenset({os.getpid()}))
    logs: tuple[tuple[str, bytes], ...] = ()
    if assignment.node is not None:
        private = Path(assignment.node.temp_dir)
        if order.logs:
            logs = _ray_logs(private, order.logs_limit)
        problems += private_directory.keep_timelines(private, Path(assignment.run_dir))
        private_directory.unlink(assignment)
        problems += private_directory.remove(private)
    return Stopped(rank, killed, logs, tuple(problems))


def _ray_logs(private: Path, limit: int) -> tuple[tuple[str, bytes], ...]:
    found: list[tuple[str, bytes]] = []
    for session in Path(paths.ray_temp_dir(str(private))).glob("session_2*"):
        found += run_directory.tails(session / "logs", limit)
    return tuple(found)


# On rank 0.


def shut_down(
    context: RunContext, spec: ClusterSpec, leftovers: Leftovers, outcome: Outcome, timing: Timing | None = None
) -> int:
    """End the driver, then all nodes side by side; write the record and the last lines; the exit code of the job."""
    began = time.monotonic()
    context.log.write("decided", HEAD_RANK, spec.head.host, code=outcome.code, cause=outcome.cause)
    if outcome.fault is not None:
        context.console.plain(outcome.fault.text())
    bad = {"bad_hosts": leftovers.bad_hosts} if leftovers.bad_hosts else {}
    unwritten = _write(spec, {**outcome_file.record(outcome, context.argv), **bad}, "written")
    problems = end_child(leftovers.driver)
    order = stop_order(len(spec.nodes), logs_wanted(context.options, outcome))
    answers = stop_all(context.comm, order, leftovers, timing or Timing())
    missing = sorted(set(range(context.comm.size)) - set(answers))
    problems += _told(spec, answers)
    problems += [f"rank {rank} ({spec.host(rank)}) has not answered" for rank in missing]
    released = time.monotonic() - began
    problems += archive(spec, answers)
    context.log.write("released", HEAD_RANK, spec.head.host, seconds=round(released, 3))
    context.log.close()
    problems += [f"{context.log.lost} events could not be written"] if context.log.lost else []
    record = outcome_file.record(outcome, context.argv, round(released, 3), problems)
    measured = {"metrics": dict(leftovers.figures)} if leftovers.figures else {}
    problems += _write(spec, {**record, **measured, **bad}, "written" if unwritten else "completed")
    problems += leftovers.registration.close() if leftovers.registration else []
    problems += bad_hosts.remember(os.environ, leftovers.bad_hosts) if context.options.register else []
    end = f"{outcome.cause}; shut down in {released:.1f} s; exit code {outcome.code}"
    context.console.line(f"{end}{_named(leftovers.bad_hosts)}")
    for problem in problems:
        context.console.line(f"WARNING: {problem}")
    _leave(context.comm, outcome.code, abort=bool(missing))
    return outcome.code


def _named(hosts: Iterable[BadHost]) -> str:
    """The bad hosts, for the last line."""
    texts = [f"{each.host} ({each.reason})" for each in hosts]
    return f"; bad {'host' if len(texts) == 1 else 'hosts'}: {shortened(texts)}" if texts else ""


def _told(spec: ClusterSpec, answers: Mapping[int, Stopped]) -> list[str]:
    """The problems of all ranks, each once, with the ranks that have it."""
    ranks: dict[str, list[str]] = {}
    for rank, answer in sorted(answers.items()):
        for text in answer.problems:
            ranks.setdefault(text, []).append(f"rank {rank} on {spec.host(rank)}")
    return [f"{text}  [{shortened(places)}]" for text, places in ranks.items()]


def logs_wanted(options: Options, outcome: Outcome) -> bool:
    """Whether --logs keeps Ray's logs of a run that ended so."""
    return options.logs == "always" or (options.logs == "failure" and outcome.code != 0)


def stop_order(nodes: int, wanted: bool) -> Stop:
    """The order to every rank at the end."""
    return Stop(wanted, max(_LOGS_LEAST, LOGS_LIMIT // max(1, nodes)))


def stop_all(comm: Comm, order: Stop, leftovers: Leftovers, timing: Timing) -> dict[int, Stopped]:
    """Order all ranks to stop, stop rank 0's node meanwhile, and collect the answers; a silent rank is missing."""
    waiting = set(range(1, comm.size))
    for rank in waiting:
        comm.send(rank, order)
    answers = {HEAD_RANK: leftovers.stop_node(order)}
    began = time.monotonic()
    while waiting and (waited := time.monotonic() - began) < timing.stopped:
        if waited > timing.doubtful and waiting <= leftovers.doubtful:
            break
        match comm.receive():
            case None:
                time.sleep(pause(waited))
            case (rank, Stopped() as answer):
                answers[rank] = answer
                waiting.discard(rank)
            case _:
                pass  # what a rank sent before it got the order
    return answers


def archive(spec: ClusterSpec, answers: Mapping[int, Stopped]) -> list[str]:
    """Pack Ray's logs; a line for what went wrong: a full run directory changes no exit code."""
    logs = {f"rank-{rank}-{spec.host(rank)}": answer.logs for rank, answer in answers.items()}
    try:
        if any(logs.values()):
            run_directory.archive(Path(spec.run_dir, paths.LOGS), logs)
    except OSError as error:
        return [f"Ray's logs could not be kept in {spec.run_dir}: {error.strerror}"]
    return []


def _write(spec: ClusterSpec, record: Mapping[str, Any], done: str) -> list[str]:
    """Write how the run ended; a line for what went wrong; done: what the file then is."""
    try:
        outcome_file.write(Path(spec.run_dir), record)
    except OSError as error:
        return [f"{Path(spec.run_dir, paths.OUTCOME)} could not be {done}: {error.strerror}"]
    return []


def _leave(comm: Comm, code: int, abort: bool) -> None:
    """Let all ranks end; abort: some rank no longer answers, so that only an abort ends it."""
    if abort:
        comm.abort(code)
    dismiss(comm, range(1, comm.size))
    comm.leave()


def dismiss(comm: Comm, ranks: Iterable[int]) -> None:
    """The last message to the ranks that have stopped: they may end."""
    for rank in ranks:
        comm.send(rank, Leave())
