"""`kubectl port-forward`, started again whenever it breaks."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

from rayhpc.errors import RayhpcError
from rayhpc.host import network
from rayhpc.kube.kubectl import Kubectl

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 10.0
# A forward that held for so long was a good one: the next begins without delay.
_GOOD_SECONDS = 30.0
_END_SECONDS = 5.0


class Forward:
    """Ports of this host that lead to a service; check() must be called again and again."""

    def __init__(self, kubectl: Kubectl, service: str, ports: Sequence[tuple[int, int]]) -> None:
        self._argv = kubectl.argv(
            "port-forward", "--address=127.0.0.1", f"service/{service}", *(f"{here}:{there}" for here, there in ports)
        )
        self._pause = _FIRST_PAUSE
        self._start()

    def _start(self) -> None:
        self._since = time.monotonic()
        # What it has to say of a connection that broke goes where our own messages go.
        self._process = subprocess.Popen(self._argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def check(self, tell: Callable[[str], None]) -> None:
        """Start it again if it has ended, the later the oftener it does."""
        code = self._process.poll()
        held = time.monotonic() - self._since
        if code is None or held < self._pause:
            return
        tell(f"the forward ended with {code} after {held:.0f} s: again")
        self._pause = _FIRST_PAUSE if held > _GOOD_SECONDS else min(2 * self._pause, _LONGEST_PAUSE)
        self._start()

    def close(self) -> None:
        """End it."""
        if self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def local_port(usual: int) -> int:
    """The usual port, or a free one where that is in use, as by another cluster's tunnel; raises RayhpcError."""
    try:
        return network.free_port("127.0.0.1", usual)
    except RayhpcError:
        return network.free_port("127.0.0.1")


def wait(forwards: Sequence[Forward], tell: Callable[[str], None]) -> NoReturn:
    """Hold the ports open until Ctrl-C."""
    try:
        while True:
            time.sleep(_FIRST_PAUSE)
            for forward in forwards:
                forward.check(tell)
    finally:
        for forward in forwards:
            forward.close()
