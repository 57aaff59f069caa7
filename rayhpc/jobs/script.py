"""What the shell of a job runs: secrets, directory, files, the commands before it, the job. Pure."""

from __future__ import annotations

import posixpath
import shlex
from collections.abc import Sequence

from rayhpc.model import JobRequest

# Among the files that are sent along: lines that set the variables which no log may have.
SECRETS = "secrets.sh"


def secrets(request: JobRequest) -> str:
    """The content of that file."""
    return "".join(f"export {name}={shlex.quote(request.environment[name])}\n" for name in request.secrets)


def script(request: JobRequest) -> str:
    """The script for sh. It ends with the first step that fails, else with the entrypoint's code.

    Ray starts it in the directory of the files that were sent along.
    """
    return "\n".join(
        [
            *(["_rayhpc_sent=$PWD"] if request.mounts else []),
            *([f". ./{SECRETS} || exit"] if request.secrets else []),
            *([f"cd -- {_word(request.working_dir)} || exit"] if request.working_dir else []),
            *_mount_lines(request.mounts),
            *(f"{{ {command}\n}} || exit" for command in request.init),
            request.entrypoint,
        ]
    )


def _mount_lines(mounts: Sequence[tuple[str, str]]) -> list[str]:
    """Unpack each into its place, which must be free, and remove it at the end: at the job's own or at a stop."""
    lines = ["_rayhpc_base=$PWD", "trap 'exit 143' TERM INT HUP"] if mounts else []
    removals = []
    for number, (_, remote) in enumerate(mounts):
        place, above = _place(remote), _place(posixpath.dirname(remote.rstrip("/")))
        removals.append(place)
        lines += [
            f"if [ -e {place} ]; then echo rayhpc: {place} is there already >&2; exit 78; fi",
            f"mkdir -p -- {above} || exit",
            f"trap {shlex.quote('rm -rf -- ' + ' '.join(removals))} EXIT",
            f'tar -xof "$_rayhpc_sent/{member(number)}" -C {above} || exit',
        ]
    return lines


def member(number: int) -> str:
    """The name of a mount's archive among the files that are sent along."""
    return f"{number}.tar"


def _place(path: str) -> str:
    """A path as a word that means the same after a `cd`."""
    return _word(path) if path[:1] in ("/", "~") else f'"$_rayhpc_base"/{shlex.quote(path)}'


def _word(path: str) -> str:
    """A path as a word; ~ is the home of the account that runs the cluster."""
    home, _, rest = path.partition("/")
    return f'"$HOME"/{shlex.quote(rest)}' if home == "~" else shlex.quote(path)
