"""What Ray runs for a job: the lines of its shell, and the runtime environment. Pure.

What a job brings along is one package for Ray, the bundle: an archive for each mount, packages, secrets. Ray writes the
values of env_vars into its own logs, on every node, and the content of packages it does not: so the secrets are in
the bundle, as shell for the job, and as a module with a hook for all other processes that Ray starts for it. What the
shell does before the user's command is there as well: Ray begins the job's log with the script. The bundle is no
working_dir: with one, Ray's remote tasks would not find the modules beside the job's program.
"""

from __future__ import annotations

import json
import shlex
from pathlib import PurePosixPath
from typing import Any

from rayhpc.jobs.request import JobRequest

BUNDLE = "rayhpc_job"
MOUNTS = "mounts.sh"
PACKAGES = "packages"
BEGIN = "begin.sh"
_SECRETS = "secrets.sh"
_MODULE = "__init__.py"
_HOOK = "prepare"

# Ray puts the directory of the bundle on PYTHONPATH, among others. Python might take seconds to find it, a shell none.
_FIND = (
    f"IFS=:; set -f; for rayhpc_job in $PYTHONPATH; do rayhpc_job=$rayhpc_job/{BUNDLE};"
    f' [ ! -f "$rayhpc_job/{BEGIN}" ] || break; done; . "$rayhpc_job/{BEGIN}"\n'
)


# What the job's other processes do before they run anything of the user's.
_PROGRAM = """\
import json
import os
import sys


def {hook}():
    os.environ.update(json.loads({secrets}))
    packages = os.path.join(os.path.dirname(__file__), "{packages}")
    if os.path.isdir(packages):
        sys.path.insert(0, packages)
"""


def has_bundle(request: JobRequest) -> bool:
    """True for a job that brings anything along."""
    return bool(request.mounts or request.secrets or request.packages or request.init)


def archive_name(number: int, directory: bool) -> str:
    """The archive of a file mount in the bundle; they are numbered from 1 on, and mounts.sh knows the names."""
    return f"mount-{number}" + (".d" if directory else "")


def bundle_files(request: JobRequest) -> dict[str, str]:
    """The bundle's files beside archives, packages and mounts.sh: names and contents."""
    secrets = {name: request.environment[name] for name in request.secrets}
    exports = [f"export {name}={shlex.quote(value)}\n" for name, value in secrets.items()]
    module = _PROGRAM.format(hook=_HOOK, packages=PACKAGES, secrets=repr(json.dumps(secrets)))
    return {_SECRETS: "".join(exports), _MODULE: module, BEGIN: _begin(request)}


def runtime_env(request: JobRequest, bundle: str) -> dict[str, Any]:
    """Ray's runtime environment; bundle: the local directory, of use where has_bundle() says so."""
    shown = {name: value for name, value in request.environment.items() if name not in request.secrets}
    return {
        **({"env_vars": shown} if shown else {}),
        **({"py_modules": [bundle]} if has_bundle(request) else {}),
        **({"worker_process_setup_hook": f"{BUNDLE}.{_HOOK}"} if request.secrets or request.packages else {}),
        **({"py_executable": request.py_executable} if request.py_executable else {}),
    }


def script(request: JobRequest) -> str:
    """The script for sh, which Ray shows in its lists and at the beginning of the log: so it is short.

    It ends with the first step of the beginning that fails, else with the entrypoint's code.
    """
    if has_bundle(request):
        return _FIND + request.entrypoint
    return _directory(request, " || exit") + request.entrypoint


def whole_script(request: JobRequest) -> str:
    """All that the job's shell does, for people."""
    return (_begin(request) if has_bundle(request) else _directory(request, " || exit")) + request.entrypoint


def _begin(request: JobRequest) -> str:
    """What the job's shell does before the entrypoint: read into it from the bundle."""
    packages = f'PYTHONPATH="$rayhpc_job/{PACKAGES}${{PYTHONPATH:+:$PYTHONPATH}}"\nexport PYTHONPATH\n'
    steps = [
        "set +f\nunset IFS\nset -e\n",
        _mount_lines(request.mounts) if request.mounts else "",
        f'. "$rayhpc_job/{_SECRETS}"\n' if request.secrets else "",
        packages if request.packages else "",
        _directory(request),
        *(f"{command.rstrip()}\n" for command in request.init),
        "set +e\n",
    ]
    return "".join(steps)


def _directory(request: JobRequest, otherwise: str = "") -> str:
    return f"cd -- {_word(PurePosixPath(request.working_dir))}{otherwise}\n" if request.working_dir else ""


def _mount_lines(mounts: tuple[tuple[str, str], ...]) -> str:
    places = [PurePosixPath(remote) for _, remote in mounts]
    lines = [f"rayhpc_mount {number} {_word(place.parent)} {_word(place)}\n" for number, place in enumerate(places, 1)]
    return "".join([f'. "$rayhpc_job/{MOUNTS}"\nrayhpc_begin_mounts\n', *lines])


def _word(place: PurePosixPath) -> str:
    """A path as a word of the shell; ~ is the home of the account that runs the cluster."""
    home, *rest = place.parts
    return "/".join(['"$HOME"', *map(shlex.quote, rest)]) if home == "~" else shlex.quote(str(place))
