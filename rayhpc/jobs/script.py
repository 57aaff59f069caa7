"""What Ray runs for a job: the lines of its shell, and the runtime environment. Pure.

What a job brings along is one package for Ray, the bundle: an archive for each file mount, and the secrets. Ray writes
the values of env_vars into its own logs, on every node, and the content of packages it does not: so the secrets are in
the bundle, as shell for the job, and as a module with a hook for all other processes that Ray starts for it. The
bundle is no working_dir: with one, Ray's remote tasks would not find the modules beside the job's program.
"""

from __future__ import annotations

import json
import shlex
from pathlib import PurePosixPath
from typing import Any

from rayhpc.jobs.request import JobRequest

BUNDLE = "rayhpc_job"
MOUNTS = "mounts.sh"
_SECRETS = "secrets.sh"
_MODULE = "__init__.py"
_HOOK = "set_secrets"

# Ray puts the directory of the bundle on PYTHONPATH.
_FIND = f"""\
set -f
IFS=:
for rayhpc_job in $PYTHONPATH; do
    rayhpc_job=$rayhpc_job/{BUNDLE}
    [ ! -f "$rayhpc_job/{_MODULE}" ] || break
done
set +f
unset IFS
"""


def has_bundle(request: JobRequest) -> bool:
    """True for a job that brings anything along."""
    return bool(request.mounts or request.secrets)


def archive_name(number: int, directory: bool) -> str:
    """The archive of a file mount in the bundle; they are numbered from 1 on, and mounts.sh knows the names."""
    return f"mount-{number}" + (".d" if directory else "")


def bundle_files(request: JobRequest) -> dict[str, str]:
    """The bundle's files beside archives and mounts.sh: names and contents."""
    secrets = {name: request.environment[name] for name in request.secrets}
    exports = [f"export {name}={shlex.quote(value)}\n" for name, value in secrets.items()]
    module = f"import json\nimport os\n\n\ndef {_HOOK}():\n    os.environ.update(json.loads({json.dumps(secrets)!r}))\n"
    return {_SECRETS: "".join(exports), _MODULE: module}


def runtime_env(request: JobRequest, bundle: str) -> dict[str, Any]:
    """Ray's runtime environment; bundle: the local directory, of use where has_bundle() says so."""
    shown = {name: value for name, value in request.environment.items() if name not in request.secrets}
    return {
        **({"env_vars": shown} if shown else {}),
        **({"py_modules": [bundle]} if has_bundle(request) else {}),
        **({"worker_process_setup_hook": f"{BUNDLE}.{_HOOK}"} if request.secrets else {}),
    }


def script(request: JobRequest) -> str:
    """The script for sh. It ends with the first step that fails, else with the entrypoint's code."""
    prepares = [
        _FIND if has_bundle(request) else "",
        _mount_lines(request.mounts) if request.mounts else "",
        f'. "$rayhpc_job/{_SECRETS}"\n' if request.secrets else "",
        f"cd -- {_word(PurePosixPath(request.working_dir))}\n" if request.working_dir else "",
        *(f"{command.rstrip()}\n" for command in request.init),
    ]
    return "".join(["set -e\n", *prepares, "set +e\n", request.entrypoint] if any(prepares) else [request.entrypoint])


def _mount_lines(mounts: tuple[tuple[str, str], ...]) -> str:
    places = [PurePosixPath(remote) for _, remote in mounts]
    lines = [f"rayhpc_mount {number} {_word(place.parent)} {_word(place)}\n" for number, place in enumerate(places, 1)]
    return "".join([f'. "$rayhpc_job/{MOUNTS}"\nrayhpc_begin_mounts\n', *lines])


def _word(place: PurePosixPath) -> str:
    """A path as a word of the shell; ~ is the home of the account that runs the cluster."""
    home, *rest = place.parts
    return "/".join(['"$HOME"', *map(shlex.quote, rest)]) if home == "~" else shlex.quote(str(place))
