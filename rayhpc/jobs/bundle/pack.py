"""What a job brings along, packed for Ray on this side: file mounts, packages and secrets."""

from __future__ import annotations

import json
import os
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from rayhpc.errors import configuration
from rayhpc.jobs.bundle.excludes import left_out
from rayhpc.jobs.bundle.packages import install_packages
from rayhpc.jobs.bundle.script import BUNDLE, MOUNTS, PACKAGES, archive_name, bundle_files, has_bundle, script
from rayhpc.jobs.request import JobRequest

# What Ray's dashboard takes in one request (DASHBOARD_CLIENT_MAX_SIZE); it answers 413 to more.
LIMIT = 100 * 2**20
# One argument, and one variable, has at most 128 KiB (MAX_ARG_STRLEN): Ray hands the job on as `sh -c SCRIPT`, and its
# environment as JSON in a variable.
_COMMAND_LIMIT = 120 * 2**10
# Headers of tar and zip.
_ROOM = 2**20


@contextmanager
def packed(request: JobRequest) -> Iterator[str]:
    """The bundle of a job, in a directory that is its owner's alone and gone afterwards; empty for a job without one.

    Raises RayhpcError for what cannot be packed; check() comes before.
    """
    if not has_bundle(request):
        yield ""
        return
    with tempfile.TemporaryDirectory(prefix="rayhpc-job-") as scratch:
        bundle = Path(scratch, BUNDLE)
        bundle.mkdir()
        for name, text in {**bundle_files(request), MOUNTS: _shell()}.items():
            (bundle / name).write_text(text, encoding="utf-8")
        for number, (local, remote) in enumerate(request.mounts, 1):
            source = Path(local).expanduser()
            name = PurePosixPath(remote).name
            _archive(bundle / archive_name(number, source.is_dir()), source, name, request.excludes)
        install_packages(request.packages, request.excludes, bundle / PACKAGES)
        _check_size([(_size(bundle / PACKAGES, ()), "packages"), *_mounts(request)] if request.packages else [])
        yield str(bundle)


def _shell() -> str:
    return Path(__file__).with_name(MOUNTS).read_text(encoding="utf-8")


def _archive(file: Path, source: Path, name: str, excludes: Sequence[str]) -> None:
    """Pack a file or a directory, with modes and links; a link that is a mount itself stands for what it leads to."""

    def kept(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        below = PurePosixPath(*PurePosixPath(entry.name).parts[1:])
        return None if below.parts and left_out(below, entry.isdir(), excludes) else _anonymous(entry)

    try:
        with tarfile.open(file, "w") as tar:
            tar.add(source.resolve(), PurePosixPath(name).name, filter=kept)
    except OSError as error:
        raise configuration(
            f"the file mount {source} cannot be packed: {error.strerror}",
            next_step=f"ls -ld {error.filename or source}",
        ) from error


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """An entry without its owner, whom the cluster's hosts need not know."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


def check(request: JobRequest) -> None:
    """Raises RayhpcError for file mounts that are not there, and for more than Ray's job API, or Linux, takes."""
    length = len(script(request).encode(errors="replace")) + len(json.dumps(request.environment))
    if length > _COMMAND_LIMIT:
        raise configuration(
            f"the job's command and environment are {-(-length >> 10)} KiB: Linux takes {_COMMAND_LIMIT >> 10} KiB",
            next_step="write the arguments into a file that the script reads; nothing was submitted",
        )
    _check_size(_mounts(request))


def _mounts(request: JobRequest) -> list[tuple[int, str]]:
    return [(_size(Path(local).expanduser(), request.excludes), local) for local, _ in request.mounts]


def _check_size(found: Sequence[tuple[int, str]]) -> None:
    sizes = sorted(found, reverse=True)
    total = sum(size for size, _ in sizes)
    if total > LIMIT - _ROOM:
        raise configuration(
            f"the file mounts are {_mebibytes(total)} MiB: Ray's job API takes {LIMIT >> 20} MiB at once",
            *(f"{_mebibytes(size)} MiB  {local}" for size, local in sizes[:5]),
            next_step="leave large ones on the shared file system, or out with excludes; nothing was submitted",
        )


def _mebibytes(size: int) -> int:
    return -(-size >> 20)


def _size(path: Path, excludes: Sequence[str]) -> int:
    """Bytes of a file, or of the files below a directory that are kept; raises RayhpcError where there is neither."""
    try:
        if not path.is_dir():
            return path.stat().st_size
        return sum(file.lstat().st_size for file in _kept(path, excludes))
    except OSError as error:
        raise configuration(
            f"the file mount {path} is not there: {error.strerror}", next_step="correct the path; nothing was submitted"
        ) from error


def _kept(top: Path, excludes: Sequence[str]) -> Iterator[Path]:
    for folder, directories, names in os.walk(top):
        place = PurePosixPath(folder).relative_to(top)
        directories[:] = [name for name in directories if not left_out(place / name, True, excludes)]
        yield from (Path(folder, name) for name in names if not left_out(place / name, False, excludes))
