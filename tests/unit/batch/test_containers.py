"""RAYHPC_CONTAINER: the command line for each runtime, by programs on PATH that print how they were called."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

import rayhpc

ENTER = Path(rayhpc.__file__).parent / "containers" / "enter.sh"
JOBSCRIPTS = Path(rayhpc.__file__).parent / "jobscripts"
FAIL = 'fail() { echo "rayhpc: $1" >&2; echo "  next: $2" >&2; exit 78; }\nset -euo pipefail\n'
RUNTIMES = ("apptainer", "singularity", "ch-run", "podman-hpc", "shifter")


class Host:
    """A host with some runtimes, a working directory, a home and an image; its devices are files of the test's."""

    def __init__(self, place: Path) -> None:
        self.work, self.home, self.bin, self.temp = (place / name for name in ("work", "home", "bin", "node-local"))
        self.nvidia, self.amd = place / "nvidiactl", place / "kfd"
        for directory in (self.work, self.home, self.bin, self.temp):
            directory.mkdir()
        self.system = place / "system"  # whatever runtimes this machine has are not on PATH
        self.system.mkdir()
        for name in ("bash", "env", "id", "mkdir", "cksum", "cut", "chmod", "mv", "dirname", "hostname"):
            (self.system / name).symlink_to(next(Path(d, name) for d in ("/bin", "/usr/bin") if Path(d, name).exists()))
        self.image = self.work / "ray.sif"
        self.image.touch()

    def has(self, *runtimes: str) -> None:
        for name in runtimes:
            program = self.bin / name
            program.write_text('#!/bin/bash\nprintf "%s\\n" "${0##*/}" "$@"\n')
            program.chmod(0o755)

    def run(self, image: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Source what the jobscripts source, and run `python -c 'a  b'` as they do."""
        text = ENTER.read_text().replace("/dev/nvidiactl", str(self.nvidia)).replace("/dev/kfd", str(self.amd))
        text = re.sub(r"(/run/munge|/var/spool/slurmd|/var/run/palsd)", rf"{self.work.parent}\1", text)
        environ = {"PATH": f"{self.bin}:{self.system}", "HOME": str(self.home), "TMPDIR": str(self.temp), "USER": "ada",
                   "RAYHPC_CONTAINER": image, **more}  # fmt: skip
        script = f"{FAIL}{text}\nexec python -c 'a  b'"
        return subprocess.run(["bash", "-c", script], cwd=self.work, env=environ, capture_output=True, text=True,
                              timeout=20, check=False)  # fmt: skip

    def words(self, image: str, **more: str) -> list[str]:
        done = self.run(image, **more)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.splitlines()

    @property
    def places(self) -> list[str]:
        """What every image has of the host."""
        return [*map(str, (self.work, self.work / "rayhpc-runs", self.home, self.temp)), "/dev/shm"]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_apptainer(host: Host) -> None:
    host.has("apptainer", "singularity")
    binds = [word for place in host.places for word in ("--bind", place)]
    expected = ["exec", "--pwd", str(host.work), *binds, str(host.image), "python3", "-c", "a  b"]
    assert host.words("ray.sif") == ["apptainer", *expected]
    assert host.words("./ray.sif", RAYHPC_CONTAINER_RUNTIME="singularity") == ["singularity", *expected]


def test_charliecloud_gets_mount_points(host: Host) -> None:
    host.has(*RUNTIMES)
    image = host.work / "image"
    (image / "ch").mkdir(parents=True)
    # The directories of a test lie below /tmp, which Charliecloud brings along.
    binds = [f"--bind={place}:{place}" for place in host.places if not place.startswith(("/tmp/", "/dev/"))]
    expected = ["ch-run", f"--cd={host.work}", *binds, str(image), "--", "python3", "-c", "a  b"]
    assert host.words("./image") == expected
    (image / "ch" / "environment").touch()
    words = host.words("./image", RAYHPC_CONTAINER_BINDS="/usr/share")
    assert words[2] == "--set-env"
    assert "--bind=/usr/share:/usr/share" in words
    assert (image / "usr" / "share").is_dir()


def test_podman(host: Host) -> None:
    host.has("podman-hpc")
    volumes = [f"--volume={place}:{place}" for place in host.places[:-1]]  # --ipc=host brings /dev/shm
    shared = ["--env-host", "--network=host", "--ipc=host", "--pid=host"]
    expected = ["run", "--rm", *shared, f"--workdir={host.work}", *volumes, "lab/ray:2.60", "python3", "-c", "a  b"]
    assert host.words("lab/ray:2.60") == ["podman-hpc", *expected]


def test_shifter_has_the_sites_directories_already(host: Host) -> None:
    host.has("shifter")
    words = host.words("lab/ray:2.60", RAYHPC_CONTAINER_BINDS="/usr/share /nowhere")
    runs = f"{host.work}/rayhpc-runs"
    assert words == ["shifter", "--image=lab/ray:2.60", f"--workdir={host.work}", f"--volume={runs}:{runs}",
                     "--volume=/usr/share:/usr/share", "python3", "-c", "a  b"]  # fmt: skip


@pytest.mark.parametrize(
    ("runtime", "nvidia", "amd"),
    [
        ("apptainer", "--nv", "--rocm"),
        ("singularity", "--nv", "--rocm"),
        ("podman-hpc", "--gpu", ""),
        ("shifter", "--module=gpu", ""),
    ],
)
def test_gpus_of_the_host(host: Host, runtime: str, nvidia: str, amd: str) -> None:
    host.has(runtime)
    flags = {"--nv", "--rocm", "--gpu", "--module=gpu"}
    assert flags.isdisjoint(host.words("ray.sif", RAYHPC_CONTAINER_RUNTIME=runtime))
    host.nvidia.touch()
    assert flags & set(host.words("ray.sif", RAYHPC_CONTAINER_RUNTIME=runtime)) == {nvidia}
    host.amd.touch()
    assert flags & set(host.words("ray.sif", RAYHPC_CONTAINER_RUNTIME=runtime)) == {nvidia, amd} - {""}


def test_the_schedulers_sockets_come_along(host: Host) -> None:
    host.has("apptainer")
    for place in ("run/munge", "var/spool/slurmd", "var/run/palsd"):
        (host.work.parent / place).mkdir(parents=True)
    words = host.words("ray.sif")
    for place in ("run/munge", "var/spool/slurmd", "var/run/palsd"):
        assert str(host.work.parent / place) in words


def test_another_python_and_another_run_directory(host: Host) -> None:
    host.has("apptainer")
    runs = host.work.parent / "my runs"
    words = host.words("docker://lab/ray", RAYHPC_CONTAINER_PYTHON="/opt/py/bin/python", RAYHPC_RUN_DIR=str(runs))
    assert words[words.index("docker://lab/ray") + 1] == "/opt/py/bin/python"
    assert words[words.index(str(runs)) - 1] == "--bind"
    (entrance,) = (runs / "containers").glob("*/*")
    assert (entrance.name, entrance.stat().st_mode & 0o777) == ("python", 0o700)


def test_equal_jobs_share_the_entrance_and_others_do_not(host: Host) -> None:
    host.has("apptainer")
    for image in ("docker://a", "docker://b", "docker://a"):
        host.words(image)
    assert len(list((host.work / "rayhpc-runs" / "containers").iterdir())) == 2


@pytest.mark.parametrize(
    ("image", "runtimes", "chosen"),
    [
        ("ray.sif", ("singularity", "shifter"), "singularity"),
        ("ray.sif", RUNTIMES, "apptainer"),
        ("docker://lab/ray", RUNTIMES, "apptainer"),
        ("./image", RUNTIMES, "ch-run"),
        ("./image", ("apptainer",), "apptainer"),
        ("lab/ray:2.60", RUNTIMES, "podman-hpc"),
        ("lab/ray:2.60", ("shifter", "apptainer"), "shifter"),
    ],
)
def test_the_first_runtime_that_can(host: Host, image: str, runtimes: tuple[str, ...], chosen: str) -> None:
    (host.work / "image").mkdir()
    host.has(*runtimes)
    assert host.words(image)[0] == chosen


@pytest.mark.parametrize(
    ("image", "runtime", "what", "step"),
    [
        ("ray.sif", "docker", "RAYHPC_CONTAINER_RUNTIME=docker is no runtime that rayhpc knows", "apptainer, sing"),
        ("ray.sif", "shifter", "nothing on this host runs the image ray.sif: there is no shifter", "load its"),
        ("lab/ray", "", "the image lab/ray: there is no podman-hpc, no shifter, no ch-run, no apptainer,", "load its"),
        ("no.sif", "apptainer", "there is no image no.sif", "correct RAYHPC_CONTAINER"),
    ],
)
def test_what_cannot_be_run_is_told(host: Host, image: str, runtime: str, what: str, step: str) -> None:
    host.has(*(["apptainer"] if runtime else []))
    done = host.run(image, RAYHPC_CONTAINER_RUNTIME=runtime)
    assert done.returncode == 78
    assert what in done.stderr
    assert f"next: {step}" in done.stderr
    assert not (host.work / "rayhpc-runs").exists()


def test_every_jobscript_knows_it() -> None:
    """The same lines behind the check of the host's rayhpc; ALPS has no containers."""
    found = {}
    for script in JOBSCRIPTS.iterdir():
        lines = r'^if \[ -n "\$\{RAYHPC_CONTAINER:-\}" \]; then # the ranks.*?^fi$'
        match = re.search(lines, script.read_text(), re.MULTILINE | re.DOTALL)
        found[script.name] = match[0] if match else ""
    assert found.pop("theta.pbs") == ""
    assert len(set(found.values())) == 1
    assert "containers/enter.sh" in next(iter(found.values()))


def test_both_recipes_make_the_same_image() -> None:
    """They cannot be built here: there is no registry."""
    packaging = Path(rayhpc.__file__).parents[1] / "packaging"
    docker, apptainer = ((packaging / name).read_text() for name in ("Dockerfile", "Apptainer.def"))
    base = re.search(r"^ARG RAY=(\S+)$", docker, re.MULTILINE)
    assert base is not None
    assert f"From: rayproject/ray:{base[1]}\n" in apptainer
    for text in (docker, apptainer):
        assert "--no-deps /tmp/rayhpc" in text
        assert "-r /tmp/rayhpc/packaging/image-requirements.txt" in text
