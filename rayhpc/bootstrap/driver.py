"""Stage 5: the user's command, beside the head."""

from __future__ import annotations

import ast
import errno
import importlib.util
import os
import shlex
import shutil
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from stat import S_ISDIR, S_ISREG

from rayhpc.errors import ExitCode, Fault, RayhpcError, configuration
from rayhpc.host import this_host
from rayhpc.messages import DriverEnded, RankFailed
from rayhpc.model import HEAD_RANK, Assignment, ClusterSpec
from rayhpc.processes import environment
from rayhpc.processes.children import Child, Order
from rayhpc.processes.keeper_process import Keeping
from rayhpc.user_input import missing_driver

# What an ending driver may leave behind gets SIGTERM and this long.
_LINGER_SECONDS = 0.5
_SHOWN = 200
# Arguments of ray.init() that Ray refuses on a cluster that is there.
_REFUSED = frozenset({"num_cpus", "num_gpus", "resources", "labels", "object_store_memory"})
_LADDER = ((int(signal.SIGINT), 1.0), (int(signal.SIGTERM), 1.0))


def resolve(command: Sequence[str]) -> list[str]:
    """The command as it can be executed; raises RayhpcError with 126 or 127 as a shell would, 78 without a directory.

    A `.py` file and `-m module` are run by this interpreter, anything else as it is.
    """
    _check_directory()
    first = command[0]
    _check_spelling(str(Path.cwd() / first) if first.endswith(".py") else str(Path.cwd()))
    if first == "-m":
        _check_module(command[1])
        return [sys.executable, "-u", *command]
    if first.endswith(".py"):
        _check_script(first)
        return [sys.executable, "-u", first, *command[1:]]
    found = shutil.which(first)
    if found:
        return [found, *command[1:]]
    mode = _mode(first)
    if S_ISDIR(mode):
        raise _directory(first)
    if mode and not os.access(first, os.X_OK):
        raise _unusable(f"the driver {first} is not executable", next_step=f"chmod +x {first}, or name a .py file")
    raise missing_driver.file(first)


def _check_directory() -> None:
    """Raises RayhpcError where the working directory has been removed: the driver could not start in it."""
    try:
        Path.cwd()
    except OSError as error:
        step = "cd to a directory that all hosts have, and start again"
        raise configuration(f"the working directory cannot be found: {error.strerror}", next_step=step) from error


def _check_spelling(path: str) -> None:
    """Raises RayhpcError for a path that is no text in this locale: a driver's ray.init() sends it to all nodes."""
    try:
        path.encode()
    except UnicodeEncodeError as error:
        shown = os.fsencode(path).decode(errors="backslashreplace")
        raise configuration(
            f"the path {shown} is no text in this locale, and Ray takes only text",
            f"Python reads file names as {sys.getfilesystemencoding()}",
            next_step="export LC_ALL=C.UTF-8 and unset PYTHONUTF8, or rename what is beyond ASCII",
        ) from error


def _mode(name: str) -> int:
    """The mode of the file, 0 where there is none; raises RayhpcError with 126 where that cannot be known."""
    try:
        return Path(name).stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return 0
    except OSError as error:  # a directory that may not be searched, a name that is too long
        step = f"namei -l {shlex.quote(name[:_SHOWN])}"
        raise _unusable(f"the driver {name[:_SHOWN]} cannot be reached: {error.strerror}", next_step=step) from error


def _check_module(name: str) -> None:
    """Raises RayhpcError with 127 where no such module or package can be imported; nothing is imported to find out."""
    top, here = name.partition(".")[0], [str(Path.cwd())]
    if not top or not (top in sys.modules or importlib.util.find_spec(top) or PathFinder.find_spec(top, here)):
        raise missing_driver.module(name)


def _check_script(script: str) -> None:
    mode = _mode(script)
    if not mode:
        raise missing_driver.file(script)
    if S_ISDIR(mode):
        raise _directory(script)
    if not S_ISREG(mode):
        raise _unusable(f"the driver {script} is no file", next_step=f"ls -l {script}")
    try:
        source = Path(script).read_bytes()
    except OSError as error:
        raise _unusable(f"the driver {script} cannot be read: {error.strerror}", next_step=f"ls -l {script}") from error
    _check_syntax(script, source)


def _check_syntax(script: str, source: bytes) -> None:
    """Raises RayhpcError with 126 for what this Python's compiler refuses.

    Python also runs archives and compiled files, whatever their names are: their bytes are no text.
    """
    if b"\0" in source:
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python says them when it runs the driver
            compile(source, script, "exec", dont_inherit=True)
    except SyntaxError as error:
        raise _unusable(
            f"the driver {script} has a syntax error",
            *(line[:_SHOWN] for line in "".join(traceback.format_exception_only(error)).rstrip().splitlines()),
            next_step=f"correct line {error.lineno}" if error.lineno else "correct the file's encoding",
        ) from error
    except (MemoryError, RecursionError):
        return  # nested too deeply for the compiler, perhaps only here, below our own frames: Python will say it


def hint(argv: Sequence[str]) -> str:
    """What to do about a ray.init() with the cluster's size, which Ray refuses; empty where the source has none.

    argv: a driver that has failed, as resolve() returned it. Its output is not ours to read, but its source is.
    """
    named = "".join(_refused_arguments(_source(argv)))
    return f"if Ray refused {named}: leave that out of the driver; rayhpc's options size the cluster" if named else ""


def _source(argv: Sequence[str]) -> str:
    """The Python code that a driver starts with; empty where that is not known."""
    if "-c" in argv[:4]:
        return "".join(argv[argv.index("-c") + 1 :][:1])
    script = next((word for word in argv[1:3] if word.endswith(".py")), "")
    try:
        return Path(script).read_text(errors="replace") if script else ""
    except OSError:
        return ""


def _refused_arguments(source: str) -> list[str]:
    """['ray.init(num_cpus=...) in line 3'] for the first such call."""
    try:
        calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return []
    return [
        f"ray.init({word.arg}=...) in line {call.lineno}"
        for call in calls
        if ast.unparse(call.func) == "ray.init"
        for word in call.keywords
        if word.arg in _REFUSED
    ][:1]


def _directory(name: str) -> RayhpcError:
    return _unusable(f"the driver {name} is a directory", next_step="name the .py file or the program in it")


def _unusable(what: str, *evidence: str, next_step: str) -> RayhpcError:
    return RayhpcError(Fault(what, ExitCode.NOT_EXECUTABLE, evidence=evidence, next_step=next_step))


def keeper(run_id: str) -> Child:
    """The driver's keeper, started early since its start takes a while; the driver writes to our standard streams."""
    return Child(Keeping(f"{run_id}/driver", sys.stdout.fileno(), sys.stderr.fileno()))


def start(
    child: Child, argv: Sequence[str], assignment: Assignment, spec: ClusterSpec, stop_timeout: float, alive: int
) -> None:
    """Run the driver under its keeper: its standard input is empty, {address} in its arguments replaced.

    stop_timeout: the seconds that it has to end after INT or TERM; alive: how many nodes the cluster has.
    """
    address, interface = spec.address, this_host.interface_of(spec.head.address)
    child.run(
        Order(
            argv=[argument.replace("{address}", address) for argument in argv],
            env=environment.of_driver(os.environ, assignment, spec, stop_timeout, alive, interface),
            ladder=_LADDER,
            orphan_ladder=_LADDER,
            linger=_LINGER_SECONDS,
        )
    )


def ended(argv: Sequence[str], child: Child) -> DriverEnded | RankFailed:
    """The event of the driver's end, or of its refusal by the kernel."""
    if child.failed is not None:
        return RankFailed(HEAD_RANK, refusal(argv, child.failed))
    return DriverEnded(child.code or 0, child.keeper_code)


def refusal(argv: Sequence[str], failed: tuple[int, str]) -> Fault:
    """The fault of a driver that the kernel would not execute: errno and text."""
    number, text = failed
    step = "check its first line (#!…) and its architecture"
    if number == errno.E2BIG:
        step = "Linux takes 128 KiB in one argument, a quarter of ulimit -s in all: write them to a file and name that"
    return Fault(f"the driver {argv[0]} cannot be executed: {text}", ExitCode.NOT_EXECUTABLE, next_step=step)
