"""job.yaml: what it becomes, and how each thing that is wrong with it is told with its line."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rayhpc.errors import ExitCode, RayhpcError
from rayhpc.jobs.job_file import load as jobfile
from rayhpc.jobs.job_file.load import Said
from rayhpc.jobs.request import JobRequest
from tests.unit.making import HOSTILE

KEYS = [
    "script", "args", "command", "working_dir", "file_mounts", "init_commands", "environment", "resources", "env_file",
    "not_secret", "user_id", "py_executable", "excludes",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("job")
    (made / "train.py").touch()
    (made / "run").touch(mode=0o755)
    (made / "plain").touch(mode=0o644)
    (made / "data").mkdir()
    return made


def load(folder: Path, text: str, env: str | None = None, environ: Mapping[str, str] | None = None) -> JobRequest:
    (folder / "job.yaml").write_text(text)
    (folder / ".env").write_text(env or "")
    return jobfile.load(folder / "job.yaml", Said(environ or {}))


def problems(folder: Path, text: str, env: str | None = None, environ: Mapping[str, str] | None = None) -> list[str]:
    """What is wrong, without the file's name."""
    with pytest.raises(RayhpcError) as caught:
        load(folder, text, env, environ)
    fault = caught.value.fault
    assert fault.code == ExitCode.CONFIGURATION
    assert fault.next_step
    file = folder / (".env" if ".env:" in "".join(fault.evidence) else "job.yaml")
    assert fault.what.startswith(f"{file} cannot be used: {len(fault.evidence)} problem")
    assert all(line.startswith(f"{file}:") for line in fault.evidence), fault.evidence
    return [line.removeprefix(f"{file}:") for line in fault.evidence]


def test_all_of_it(folder: Path) -> None:
    request = load(
        folder,
        "script: train.py\n"
        'args: [--task, reach, --seed, 7, "${EMPTY}"]\n'
        "file_mounts:\n"
        "  data: ~/.cache/data/\n"
        "  ${NAME:-plain}: /tmp/plain\n"
        "init_commands:\n"
        "  - module load cuda\n"
        "  - |\n"
        "    export A=$B\n"
        "    echo $${C}\n"
        "environment:\n"
        "  WANDB_API_KEY: ${TOKEN}\n"
        "  HEADER: Bearer ${TOKEN}\n"
        "  VERSION: 1.10\n"
        "  FLAG: yes\n"
        "  NOTHING: ''\n"
        "resources: {num_cpus: 1, num_gpus: 0.5, memory: 2G, custom: {fast: 2}}\n",
        env="TOKEN=s3cret\n",
        environ={"EMPTY": ""},
    )
    assert request == JobRequest(
        entrypoint="python ./train.py --task reach --seed 7 ''",
        environment={
            "WANDB_API_KEY": "s3cret", "HEADER": "Bearer s3cret", "VERSION": "1.10", "FLAG": "yes", "NOTHING": "",
        },
        resources={"num_cpus": 1, "num_gpus": 0.5, "memory": 2 * 2**30, "custom": {"fast": 2}},
        working_dir=str(folder),
        mounts=((str(folder / "data"), "~/.cache/data"), (str(folder / "plain"), "/tmp/plain")),
        init=("module load cuda", "export A=$B\necho ${C}\n"),
        secrets=("WANDB_API_KEY", "HEADER"),
    )  # fmt: skip
    assert "s3cret" not in repr(request)


@pytest.mark.parametrize(
    ("text", "entrypoint", "directory"),
    [
        ("command: python train.py; echo $?", "python train.py; echo $?", ""),
        ("command: |\n  a\n  b\nworking_dir: data", "a\nb\n", "data"),
        ("script: run", "./run", ""),
        ("script: /far/away.py", "python /far/away.py", ""),
        ("script: x.py\nworking_dir: ~/there", "python ./x.py", "~/there"),
    ],
)
def test_what_runs_where(folder: Path, text: str, entrypoint: str, directory: str) -> None:
    request = load(folder, text)
    assert request.entrypoint == entrypoint
    assert request.working_dir == (directory if directory.startswith("~") else str(folder / directory))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["1: the file is empty"]),
        ("# nothing\n", ["1: the file is empty"]),
        ("- a\n", ["1: neither script nor command says what to run", "1: the file must be a mapping, not a list"]),
        ("command: a\nfile_mount: {}\n", ["2: unknown key file_mount: is it file_mounts?"]),
        ("command: a\nzzz: 1\n", [f"2: unknown key zzz: known are {', '.join(KEYS)}"]),
        ("command: a\n\ncommand: b\n", ["3: duplicate key command, first in line 1"]),
        ("command: a\nargs: [b]\n", ["2: args belong to a script: write them into the command"]),
        ("script: run\ncommand: a\n", ["2: script and command say the same thing: give one"]),
        ("args: 3\n", ["1: args must be a list, not a single value", *["1: neither script nor command says what to run",
                       "1: args belong to a script: write them into the command"]]),
        ("command: 5\n", ["1: command must be text, not 5: put it into quotes"]),
        ("command:\n", ["1: command must be a single value, not empty"]),
        ("command: ' '\n", ["1: command is empty"]),
        ("command: [a]\n", ["1: command must be a single value, not a list"]),
        ("command: a: b\n", ["1: broken YAML: mapping values are not allowed here"]),
        ("command: a\n\tb: c\n", ["2: broken YAML: found character '\\t' that cannot start any token"]),
        ('command: "a\n', ["2: broken YAML: found unexpected end of stream"]),
        ("command: a\n---\ncommand: b\n", ["2: broken YAML: but found another document"]),
        ("command: a\nenvironment:\n  A: \x01\n", ["3: broken YAML: the character U+0001 is not allowed"]),
        ('command: "\\U00110000"\n', ["1: broken YAML: chr() arg not in range(0x110000)"]),
        ('command: "\\0"\n', ["1: command holds a NUL, or half a character"]),
        ("command: a\nworking_dir: nowhere\n",
         ["2: working_dir 'nowhere' is no directory here: a job starts in one that all hosts share"]),
        ("script: nowhere.py\n", ["1: the script 'nowhere.py' is not in FOLDER"]),
        ("script: plain\n", ["1: the script 'plain' is not executable: chmod +x"]),
        ("command: a\nenvironment:\n  2X: a\n  Y: [b]\n  Z:\n",
         ["3: '2X' is no name of a variable", "4: Y must be a single value, not a list",
          "5: Z must be a single value, not empty"]),
        ("command: a\nresources:\n  num_cpu: 1\n  num_gpus: -1\n  memory: lots\n  custom: {fast: many}\n",
         ["3: unknown key num_cpu: is it num_cpus?", "4: num_gpus must be a number from 0 on, not '-1'",
          "5: memory: 'lots' is no size: 64G, 512M or a number of bytes",
          "6: fast must be a number from 0 on, not 'many'"]),
        ("command: a\nresources: {num_cpus: .inf}\n", ["2: num_cpus must be a number from 0 on, not '.inf'"]),
        ("command: a\nfile_mounts:\n  gone: /tmp/a\n  run: tmp/b\n  plain: /\n  data: /tmp/../b\n  train.py: /tmp/x/y\n"
         "  ./run: /tmp/x\n",
         ["3: 'gone' is no file or directory here",
          *[f"{line}: the remote path '{path}' must begin with / or ~/, and name a file, without .."
            for line, path in ((4, "tmp/b"), (5, "/"), (6, "/tmp/../b"))],
          "8: '/tmp/x' and '/tmp/x/y' are in each other's place"]),
        ("command: a\ninit_commands:\n  - b\n  - {c: d}\n  - 7\n",
         ["4: an entry of init_commands must be a single value, not a mapping",
          "5: an entry of init_commands must be text, not 7: put it into quotes"]),
        ("command: |\n  a\n  b ${NONE}\nworking_dir: ${ALSO}\n", ["3: NONE is not set", "4: ALSO is not set"]),
        ("command: a ${\n", ["1: `${` begins no ${NAME}: write $${ for itself"]),
        ("command: a\n? [b]\n: c\n", ["2: the file: a key must be a word"]),
        ("command: &a [*a]\n", ["1: command must be a single value, not a list"]),
        ("command: !!python/object/apply:os.system [touch x]\n", ["1: command must be a single value, not a list"]),
    ],
)  # fmt: skip
def test_what_is_wrong(folder: Path, text: str, expected: list[str]) -> None:
    found = problems(folder, text)
    assert sorted(found) == sorted(line.replace("FOLDER", str(folder)) for line in expected)


def test_problems_stand_in_the_order_of_their_lines(folder: Path) -> None:
    lines = [line.partition(":")[0] for line in problems(folder, "resources: 1\ncommand: 2\nargs: 3\n")]
    assert lines == sorted(lines)


def test_many_problems_fit_on_a_screen(folder: Path) -> None:
    with pytest.raises(RayhpcError) as caught:
        load(folder, "command: a\n" + "".join(f"key{number}:\n" for number in range(500)))
    assert len(caught.value.fault.text().splitlines()) < 26
    assert caught.value.fault.evidence[-1] == "and 480 more"


@pytest.mark.parametrize("key", [key for key in KEYS if key not in ("environment", "env_file", "not_secret")])
def test_secrets_go_into_the_environment_only(folder: Path, key: str) -> None:
    value = "${TOKEN}"
    shapes = {
        "args": f"[{value!r}]",
        "excludes": f"[{value!r}]",
        "init_commands": f"[{value!r}]",
        "file_mounts": f"{{run: '/tmp/{value}'}}",
        "resources": f"{{memory: {value!r}}}",
    }
    given = "" if key in ("script", "command") else "script: run\n"
    found = problems(folder, f"{given}{key}: {shapes.get(key, value)}\n", env="TOKEN=s3cret\n")
    assert any("holds TOKEN, a secret: only `environment` takes it" in line for line in found)
    assert "s3cret" not in "".join(found)


@pytest.mark.parametrize(
    "text",
    [
        "command: s3cret\nworking_dir: /nowhere/s3cret\n",
        "command: a\nxs3cretx: 1\n",
        "command: a\ns3cret: 1\n",
        "command: a\nresources: {memory: s3cret}\n",
        "command: a\nfile_mounts: {s3cret: /tmp/a}\n",
        "command: a\nenvironment: {s3-s3cret: 1}\n",
        "command: a\nenvironment: {A: *s3cret}\n",
    ],
)
def test_no_error_shows_a_secret(folder: Path, text: str) -> None:
    """Also not where somebody typed it into the file."""
    found = "".join(problems(folder, text, env="TOKEN=s3cret\n"))
    assert "***" in found
    assert "s3cret" not in found


def test_the_env_file(folder: Path, tmp_path: Path) -> None:
    assert problems(folder, "command: a\n", env="A=1\nB 2\nC='3\n") == [
        "2: no NAME=VALUE, or a quote does not end",
        "3: no NAME=VALUE, or a quote does not end",
    ]
    other = tmp_path / "other"
    other.write_text("A=other\n")
    text = "command: a\nenvironment: {A: '${A}', B: '${B:-none}'}\n"
    assert load(folder, text, env="A=own\nB=own\n").secrets == ("A", "B")
    request = jobfile.load(folder / "job.yaml", Said({}, other))
    assert (request.secrets, request.environment) == (("A",), {"A": "other", "B": "none"})
    with pytest.raises(RayhpcError, match="gone cannot be read: No such file"):
        jobfile.load(folder / "job.yaml", Said({}, tmp_path / "gone"))


def test_files_that_cannot_be_read(folder: Path, tmp_path: Path) -> None:
    for name, what in (("gone.yaml", "No such file"), ("data", "it is a directory, no file")):
        with pytest.raises(RayhpcError, match=f"{name} cannot be read: {what}") as caught:
            jobfile.load(folder / name, Said({}))
        assert caught.value.fault.code == ExitCode.CONFIGURATION
    (tmp_path / "job.yaml").write_bytes(b"command: a\n# \xff\n")
    with pytest.raises(RayhpcError) as caught:
        jobfile.load(tmp_path / "job.yaml", Said({}))
    assert caught.value.fault.evidence == (f"{tmp_path}/job.yaml:2: bytes that are no UTF-8",)


# Anything at all, but for U+0085: YAML 1.1 reads it as the end of a line, and PyYAML writes it as it is.

words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\x85"), min_size=1, max_size=20)
visible = words.filter(lambda word: bool(word.strip()))
names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
amounts = st.integers(0, 10**6) | st.floats(0, 10**6).map(lambda number: round(number, 3)).filter(lambda it: it >= 0.01)
resources = st.fixed_dictionaries(
    {},
    optional={
        "num_cpus": amounts,
        "num_gpus": amounts,
        "memory": st.integers(0, 2**50),
        "custom": st.dictionaries(names, amounts, max_size=3),
    },
)


def escaped(text: str) -> str:
    return text.replace("${", "$${")


@given(visible, st.dictionaries(names, words | st.just(""), max_size=4), resources, st.lists(visible, max_size=3))
@example("".join(HOSTILE), {"A": HOSTILE[4]}, {}, list(HOSTILE))
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_what_was_written_is_read(
    command: str, environment: dict[str, str], wanted: dict[str, Any], init: list[str]
) -> None:
    content = {
        "command": escaped(command),
        "environment": {name: escaped(value) for name, value in environment.items()},
        "resources": wanted,
        "init_commands": [escaped(line) for line in init],
    }
    for style in (None, '"'):
        text = yaml.safe_dump(content, allow_unicode=True, default_style=style)
        if style and wanted:
            continue  # numbers become text, with a tag
        request = jobfile.parse(text, Path("/job.yaml"), Said({}))
        assert (request.entrypoint, request.environment, request.init) == (command, environment, tuple(init))
        assert request.resources == wanted


@given(st.lists(words, max_size=5))
def test_arguments_arrive(arguments: list[str]) -> None:
    text = yaml.safe_dump({"script": "/x", "args": [escaped(word) for word in arguments]})
    request = jobfile.parse(text, Path("/job.yaml"), Said({}))
    assert shlex.split(request.entrypoint) == ["/x", *arguments]


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.dates() | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), inner),
    max_leaves=12,
)
pieces = st.sampled_from(
    ["command", "script", "environment", "file_mounts", "resources", "memory", ": ", "\n", "  ", "- ", "{", "}", "[",
     "]", "&a ", "*a", "!!int ", "!!", "${", "${A}", "${T}", "|\n", ">\n", "'", '"', "\\", "%YAML 1.1", "---", "...",
     "<<", "~", "\ud800", "\0", "\ufeff", "? ", "#", "1", "é"]
)  # fmt: skip


@given(st.text(max_size=40) | st.lists(pieces, max_size=14).map("".join) | anything.map(yaml.safe_dump))
@example("[" * 5000)
@example("command: " + "{a: " * 3000)
@example('command: "\\ud800"')
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_any_text_is_a_job_or_refused(text: str) -> None:
    try:
        request = jobfile.parse(text, Path("/job.yaml"), Said({"A": "a", "T_KEY": "t"}))
    except RayhpcError as error:
        assert error.fault.code == ExitCode.CONFIGURATION
        assert error.fault.evidence
    else:
        assert isinstance(request, JobRequest)
        assert request.entrypoint
