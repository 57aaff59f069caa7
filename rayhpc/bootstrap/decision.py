"""The first event that decides ends the run: events in, the outcome out. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rayhpc.bootstrap.shortage import lacking, remedy, shortage
from rayhpc.errors import ExitCode, Fault, assert_never, signal_name
from rayhpc.messages import (
    ENDING,
    DriverEnded,
    Event,
    HeadSilent,
    Loss,
    NodeDead,
    NodeEnded,
    NodeLate,
    RankFailed,
    RankSilent,
    SignalArrived,
    TimeUp,
)
from rayhpc.model import HEAD_RANK, NodeSpec, Outcome

# How Python writes an import that failed.
_IMPORT_ERRORS = ("ModuleNotFoundError: ", "ImportError: ")


@dataclass(frozen=True)
class Policy:
    """What decides: up says that the cluster is complete; driven that a driver runs and has the last word.

    spare: nodes that may be missing while the cluster comes up; forgiven: ranks that were.
    """

    nodes: tuple[NodeSpec, ...]
    log_dir: str
    up: bool = False
    driven: bool = False
    abort_on_loss: bool = False
    spare: int = 0
    forgiven: frozenset[int] = frozenset()


def decide(history: Sequence[Event], policy: Policy) -> Outcome | None:
    """The outcome that the first deciding event makes; None while nothing has decided. Pure."""
    lost: set[int] = set()
    ending = 0
    for event in history:
        match event:
            case DriverEnded(code=code, keeper=keeper) if keeper:
                return Outcome(128 - code, _with_keeper("driver", "driver", keeper))
            case DriverEnded(code=code):
                # Ray's handler of a signal ends the driver with the signal's number.
                code = -code if ending and code == ending else code
                return Outcome(128 - code if code < 0 else code, _driver_cause(code))
            case RankFailed(fault=fault):
                return Outcome.of(fault)
            case HeadSilent() | NodeEnded() | NodeDead() | NodeLate() | RankSilent() if ending:
                pass  # a scheduler that ends the job may signal Ray's processes too: the driver still has the last word
            case HeadSilent(seconds=seconds, closed=closed):
                silent = "its GCS has ended" if closed else f"the head has not answered for {seconds:.0f} s"
                return Outcome.of(_head_fault(policy, silent, ()))
            case NodeEnded() | NodeDead() | NodeLate() | RankSilent() if event.rank in policy.forgiven:
                pass
            case NodeEnded() | NodeDead() | NodeLate() | RankSilent():
                lost.add(event.rank)
                outcome = _node_outcome(event, policy, len(lost))
                if outcome is not None:
                    return outcome
            case SignalArrived(signum=signum) if not policy.driven and signum in ENDING:
                name = signal_name(signum)
                return Outcome(0 if policy.up else 128 + signum, f"ended by {name}")
            case SignalArrived(signum=signum) if signum in ENDING:
                ending = signum
            case TimeUp(final=True) if not policy.driven:
                return Outcome(0, "the end of the job") if policy.up else Outcome.of(_late())
            case SignalArrived() | TimeUp():
                pass  # passed to the driver, which has the last word
            case _:
                assert_never(event)
    return None


def _with_keeper(what: str, who: str, code: int) -> str:
    """What went with its keeper, which was killed."""
    how = f"was killed by {signal_name(-code)}" if code < 0 else f"ended with {code}"
    return f"the {what}'s parent, a keeper of rayhpc, {how}, and the {who} with it"


def _driver_cause(code: int) -> str:
    if code < 0:
        return f"the driver was ended by {signal_name(-code)}"
    return "the driver asks to be run again" if code == ExitCode.REQUEUE else f"the driver ended with {code}"


def _node_outcome(event: Loss, policy: Policy, lost: int) -> Outcome | None:
    """What the loss of a node decides; None where the run goes on without it."""
    what = loss(event)
    evidence = event.tail if isinstance(event, NodeEnded) else ()
    if event.rank == HEAD_RANK:
        return Outcome.of(_head_fault(policy, what, evidence))
    if policy.up and not policy.abort_on_loss:
        return None
    if not policy.up and lost <= policy.spare:
        return None
    code = ExitCode.NODE_LOST if policy.up else ExitCode.BRING_UP
    step = f"see {policy.log_dir}/rank-{event.rank}.log" + (" and ray-logs.tar.gz" if policy.up else "")
    fault = Fault(what, code, f"rank {event.rank} on {event.host}", evidence, step)
    return Outcome.of(fault if policy.up else named(fault))


def loss(event: Loss) -> str:
    """The loss of a node, as messages describe it."""
    match event:
        case NodeEnded(keeper=keeper) if keeper:
            return _with_keeper("Ray node", "node", keeper)
        case NodeEnded(code=code):
            how = f"was killed by {signal_name(-code)}" if code < 0 else f"ended with {code}"
            return f"the Ray node {how}"
        case NodeDead():
            return "Ray has declared the node dead"
        case NodeLate(seconds=seconds):
            return f"its Ray node was not alive after {seconds:.0f} s"
        case RankSilent(closed=True):
            return "the rank has ended, or its connection has"
        case RankSilent(seconds=seconds):
            return f"the rank has not been heard of for {seconds:.0f} s"


def _head_fault(policy: Policy, what: str, evidence: tuple[str, ...]) -> Fault:
    code = ExitCode.HEAD_LOST if policy.up else ExitCode.BRING_UP
    head = policy.nodes[0]
    step = f"see {policy.log_dir}/rank-0.log and the archive of Ray's logs beside it"
    fault = Fault(f"the head is lost: {what}" if policy.up else what, code, head.place, evidence, step)
    return fault if policy.up else named(fault)


def named(fault: Fault) -> Fault:
    """The fault of a node that did not start, named by its cause where its output says it."""
    if short := shortage(fault.evidence):
        what = f"{fault.what}: Ray lacks {lacking(short)}"
        return replace(fault, what=what, code=ExitCode.CONFIGURATION, next_step=f"{remedy(short)}; {fault.next_step}")
    why = [line for line in fault.evidence if line.startswith(_IMPORT_ERRORS)]
    if not why:
        return fault
    step = f"in the environment of these ranks: pip install 'ray[rllib]'; {fault.next_step}"
    return replace(fault, what=f"Ray cannot be imported: {why[-1]}", code=ExitCode.CONFIGURATION, next_step=step)


def _late() -> Fault:
    return Fault(
        "the end of the job was reached before the cluster was up",
        ExitCode.NOT_READY,
        next_step="ask for more time, or look at the timeline in events.jsonl for what was slow",
    )
