"""`rayhpc cluster tunnel --open` through a real sshd on this host, as from a laptop through a login node."""

from __future__ import annotations

import http.server
import os
import pwd
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from rayhpc.clusters.tunnel import DASHBOARD
from rayhpc.records import registry
from tests.launch import registry_in, skip, until
from tests.unit.making import entry

pytestmark = pytest.mark.cluster
SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
ME = pwd.getpwuid(os.getuid()).pw_name


class Page(http.server.BaseHTTPRequestHandler):
    """What stands for the dashboard: any HTTP server does."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"a page")

    def log_message(self, *_: object) -> None:
        """Nothing on the tests' terminal."""


@pytest.fixture
def page() -> Iterator[str]:
    """HOST:PORT of a page."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def login_node(tmp_path: Path) -> Iterator[Path]:
    """The directory of an `ssh` that knows a host `login1`: an sshd with keys of its own, gone at the end."""
    if SSHD is None:
        skip("no sshd (Debian: openssh-server)")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for name in ("host", "own"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name], check=True)
    shutil.copy(tmp_path / "own.pub", tmp_path / "authorized")
    (tmp_path / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {tmp_path}/host\nAuthorizedKeysFile {tmp_path}/authorized\n"
        f"StrictModes no\nPermitRootLogin yes\nPidFile none\n"
    )
    (tmp_path / "config").write_text(
        f"Host login1\n  HostName 127.0.0.1\n  Port {port}\n  User {ME}\n  IdentityFile {tmp_path}/own\n"
        f"  UserKnownHostsFile {tmp_path}/known\n"
    )
    (tmp_path / "known").write_text(f"[127.0.0.1]:{port} {(tmp_path / 'host.pub').read_text()}")
    # ssh takes the home directory from the table of users, not from HOME: a test cannot have a ~/.ssh/config.
    (tmp_path / "bin").mkdir()
    ssh = tmp_path / "bin" / "ssh"
    ssh.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {shlex.quote(str(tmp_path / "config"))} "$@"\n')
    ssh.chmod(0o755)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    with (tmp_path / "sshd.log").open("w") as log:
        server = subprocess.Popen([SSHD, "-D", "-e", "-f", tmp_path / "sshd_config"], stderr=log)
    try:
        assert until(lambda: "Server listening" in (tmp_path / "sshd.log").read_text(), 10), server.poll()
        yield tmp_path / "bin"
    finally:
        server.terminate()
        server.wait(10)


def seen(url: str) -> bytes:
    """What a browser on the laptop gets; nothing while nobody listens."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            found: bytes = answer.read()
            return found
    except (urllib.error.URLError, ConnectionError):
        return b""


def interrupted(ssh: subprocess.Popen[bytes]) -> bool:
    """Whether it has ended after one more Ctrl-C.

    OpenSSH 9.2 looks for a signal, then polls: one that comes between the two waits for the next (2 of 250 under load).
    """
    ssh.send_signal(signal.SIGINT)
    try:
        ssh.wait(2)
    except subprocess.TimeoutExpired:
        return False
    return True


def test_a_tunnel_through_a_login_node(
    page: str, login_node: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = registry_in(tmp_path)
    monkeypatch.setenv("RAYHPC_STATE_DIR", state["RAYHPC_STATE_DIR"])
    registry.add(entry(dashboard=f"http://{page}", address="127.0.0.1:1"), "token")
    url = f"http://localhost:{DASHBOARD}"
    assert seen(url) == b"", f"something else listens at {url}"
    environment = {**os.environ, "PATH": f"{login_node}:{os.environ['PATH']}"}
    argv = [sys.executable, "-m", "rayhpc", "cluster", "tunnel", "--via", "login1", "--open"]
    with (tmp_path / "told").open("w") as told:
        tunnel = subprocess.Popen(argv, env=environment, stdin=subprocess.DEVNULL, stderr=told)
    try:
        said = lambda: ((tmp_path / "told").read_text(), (tmp_path / "sshd.log").read_text())  # noqa: E731
        assert until(lambda: tunnel.poll() is not None or seen(url) == b"a page", 30), said()
        assert tunnel.poll() is None, said()
        assert url in said()[0]
    finally:
        assert until(lambda: interrupted(tunnel), 20), said()
    assert seen(url) == b""
