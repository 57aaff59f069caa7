"""`rayhpc alloc …` as a user types it, over scheduler commands that print what real ones print."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from rayhpc.batch import allocations, logs, status, wait
from rayhpc.batch.jobscript import FOLDER
from rayhpc.cli import alloc
from rayhpc.schedulers import SYSTEMS
from rayhpc.schedulers.facts import JobState, State
from tests.unit.batch_fakes import Login, login_node
from tests.unit.making import HOSTILE, until


@pytest.fixture
def login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Login:
    """A login node of a Slurm that accepts everything as job 17, 18, …"""
    login = login_node(tmp_path, monkeypatch)
    login.fake("sbatch", 'echo "Welcome"; echo $((16 + $(sed -n "$=" "$0.calls")))')
    login.fake("squeue", 'for id in 17 18 19; do echo "$id|RUNNING|0|None|"; done')
    monkeypatch.setattr(status, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(status, "_LONGEST_PAUSE", 0.05)
    monkeypatch.setattr(logs, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(logs, "_LATE_SECONDS", 0.05)
    return login


def squeue(login: Login, *lines: str) -> None:
    login.fake("squeue", "\n".join(f"echo '{line}'" for line in lines))


# ---------------------------------------------------------------------------------------------------------- submit


def test_submit(login: Login) -> None:
    words = ["-N", "4", "-t", "60", "-A", "acct", "--gpus-per-node", "2", "--directive", "--qos=high"]
    done = login.submit("slurm", *words, driver=["train_ppo.py", "--lr", "3e-4"])
    assert (done.exit_code, done.stdout) == (0, "17\n")
    (words,) = login.calls("sbatch")
    script = login.directory / "own.sh"
    assert words == [
        "--parsable", "--nodes=4", "--time=01:00:00", "--account=acct", "--gpus-per-node=2",
        f"--output={login.directory}/job.out", "--open-mode=append", "--qos=high", str(script),
    ]  # fmt: skip
    assert "set -- train_ppo.py --lr 3e-4\n" in script.read_text()
    assert f"export RAYHPC_RUN_DIR={login.home}/rayhpc-runs\n" in script.read_text()
    for verb in ("show 17", "logs -f 17", "wait 17", "cancel 17"):
        assert f"rayhpc alloc {verb}\n" in done.stderr


def test_what_is_recorded(login: Login) -> None:
    login.submit(driver=["./driver", "naïve-日本-🙂", "\udcff"])
    record = json.loads((login.directory / "allocation.json").read_text())
    assert record["job_id"] == "17"
    assert record["scheduler"] == "slurm"
    assert record["command"] == ["./driver", "naïve-日本-🙂", "\udcff"]
    assert record["submit"][0] == "sbatch"
    assert record["script"] == str(login.directory / "own.sh")
    assert record["submitted_from"] == str(login.home)
    (allocation,) = allocations.every("rayhpc-runs")
    assert allocation.command == ("./driver", "naïve-日本-🙂", "\udcff")


def test_the_drivers_words_are_its_own(login: Login) -> None:
    login.rayhpc("submit", "slurm", "--script", str(login.script), "train.py", "-N", "4", "--", "--dry-run")
    assert "set -- train.py -N 4 -- --dry-run\n" in (login.directory / "own.sh").read_text()


def test_a_module_as_the_driver(login: Login) -> None:
    login.submit(driver=["-m", "package.train"])
    assert "set -- -m package.train\n" in (login.directory / "own.sh").read_text()


def test_ranks_per_host_reach_the_script(login: Login) -> None:
    login.submit("slurm", "--ranks-per-host", "2")
    assert "\nexport RAYHPC_RANKS_PER_HOST=2\n" in (login.directory / "own.sh").read_text()


def test_a_dry_run_shows_all_and_does_nothing(login: Login) -> None:
    done = login.submit("slurm", "-N", "4", "--dry-run", driver=["train.py", "a'; echo foo"])
    command, _, script = done.stdout.partition("\n\n")
    assert command.startswith("sbatch --parsable --nodes=4 --output=")
    assert "set -- train.py 'a'\"'\"'; echo foo'\n" in script
    assert login.calls("sbatch") == []
    assert not Path("rayhpc-runs").exists()
    assert "WARNING: train.py cannot be read" in done.stderr


def test_a_misspelt_driver_is_told_which_one_was_meant(login: Login) -> None:
    Path("hello.py").touch()
    done = login.submit("slurm", "--dry-run", driver=["helo.py"])
    assert f"helo.py cannot be read from {Path.cwd()}, where the job starts: did you mean hello.py?" in done.stderr


@pytest.mark.parametrize("name", SYSTEMS)
def test_hostile_words_reach_the_driver_on_every_scheduler(login: Login, name: str) -> None:
    """qsub and the others run the copy as their job would."""
    run = 'for word in "$@"; do :; done; "$word" >"$word.out" 2>&1'
    login.fake("sbatch", f"{run}; echo 5")
    login.fake("qsub", f"{run}; echo 5.server" if name in ("pbs", "torque") else f"{run}; echo 5")
    login.fake("flux", f"{run}; echo f2q")
    login.fake("bsub", "bash; echo 'Job <5> is submitted to queue <q>.'")
    words = ["train.py", *HOSTILE, "a\r\nb", "\udcff"]
    done = login.submit(name, "-N", "2", driver=words)
    assert done.exit_code == 0, done.output
    output = login.directory / ("own.sh.out" if SYSTEMS[name].live_output else "job.out")
    assert json.loads(output.read_text()) == words


def test_a_hostile_run_directory(login: Login, hostile: str) -> None:
    login.fake("qsub", 'for word in "$@"; do :; done; "$word"; echo 5.server')
    done = login.submit("pbs", "--run-dir", f"./{hostile}", driver=["x"])
    assert done.exit_code == 0, done.output
    (allocation,) = allocations.every(f"./{hostile}")
    assert json.loads(allocation.output.read_text()) == ["x"]
    # What is printed can be pasted into a shell.
    echoed = subprocess.run(
        ["bash", "-c", 'rayhpc() { printf "%s\\0" "$@"; }\n' + done.stderr], capture_output=True, text=True, check=True
    ).stdout
    assert f"cancel\x005.server\0--run-dir\0{Path(hostile).absolute()}\0" in echoed


def test_a_refused_job_leaves_its_script_and_no_record(login: Login) -> None:
    login.fake("sbatch", "echo 'sbatch: error: Invalid account' >&2; exit 1")
    done = login.submit()
    assert (done.exit_code, done.stdout) == (78, "")
    assert "rayhpc: sbatch refused the job\n" in done.stderr
    assert "    sbatch: error: Invalid account\n" in done.stderr
    assert (login.directory / "own.sh").exists()
    assert login.rayhpc("list").stdout.splitlines()[1:] == []


def test_no_scheduler_here(login: Login) -> None:
    done = login.submit("pbs", "-N", "1")
    assert done.exit_code == 78
    assert "qsub cannot be run: No such file" in done.stderr
    assert "  next: go to a login node" in done.stderr


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["-t", "soon"], "'soon' is no time limit"),
        (["--directive", "'unclosed"], "No closing quotation"),
        (["-N", "0"], "0 is not in the range"),
        (["--ranks-per-host", "two"], "a number, gpu or numa, not 'two'"),
        (["--walltime", "60"], "No such option"),
    ],
)
def test_requests_that_make_no_sense(login: Login, words: list[str], what: str) -> None:
    done = login.submit("slurm", *words)
    assert done.exit_code == 2
    assert what in done.stderr
    assert login.calls("sbatch") == []


def test_no_driver(login: Login) -> None:
    done = login.rayhpc("submit", "slurm", "-N", "4")
    assert done.exit_code == 2
    assert "Missing argument" in done.stderr


def test_a_script_without_our_lines(login: Login) -> None:
    login.script.write_text("#!/bin/bash\nsrun python -m rayhpc.start x.py\n")
    done = login.submit()
    assert done.exit_code == 78
    assert "0 lines '# rayhpc: command'" in done.stderr


def test_two_submissions_are_two_allocations(login: Login) -> None:
    assert [login.submit().stdout for _ in range(2)] == ["17\n", "18\n"]
    assert [entry.job_id for entry in allocations.every("rayhpc-runs")] == ["17", "18"]


# ------------------------------------------------------------------------------------------------------ list, show


def test_list_asks_once_for_all(login: Login) -> None:
    for _ in range(3):
        login.submit("slurm", driver=["train.py", "a b"])
    squeue(login, "17|COMPLETED|0|None|", "18|FAILED|1792|NonZeroExitCode|", "19|SOMETHING|0|None|")
    rows = [line.split("\t") for line in login.rayhpc("list").stdout.splitlines()]
    assert rows[0] == ["ID", "SCHEDULER", "STATE", "CODE", "SUBMITTED", "COMMAND"]
    assert [row[:4] for row in rows[1:]] == [
        ["17", "slurm", "COMPLETED", "0"], ["18", "slurm", "FAILED", "7"], ["19", "slurm", "UNKNOWN (SOMETHING)", ""],
    ]  # fmt: skip
    assert rows[1][5] == "train.py 'a b'"
    assert len(login.calls("squeue")) == 1


def test_what_has_ended_is_not_asked_for_again(login: Login) -> None:
    for _ in range(2):
        login.submit()
    squeue(login, "17|FAILED|1792|None|", "18|RUNNING|0|None|")
    login.rayhpc("list")
    squeue(login, "18|COMPLETED|0|None|")
    assert [row["state"]["state"] for row in json.loads(login.rayhpc("list", "--json").stdout)] == [
        "FAILED", "COMPLETED",
    ]  # fmt: skip
    assert "--jobs=18" in login.calls("squeue")[-1]
    calls = len(login.calls("squeue"))
    login.rayhpc("list")
    assert len(login.calls("squeue")) == calls


def test_one_question_for_each_scheduler(login: Login) -> None:
    login.fake("qsub", "echo 12.server")
    login.fake("qstat", "echo 'Job Id: 12.server'; echo '    job_state = R'")
    login.submit()
    login.submit("pbs")
    rows = json.loads(login.rayhpc("list", "--json").stdout)
    assert [(row["job_id"], row["state"]["word"]) for row in rows] == [("17", "RUNNING"), ("12.server", "R")]


def test_list_shows_what_it_can_when_a_scheduler_does_not_answer(login: Login) -> None:
    login.submit()
    login.fake("squeue", "echo 'Unable to contact slurm controller' >&2; exit 1")
    done = login.rayhpc("list")
    assert done.exit_code == 78
    assert done.stdout.splitlines()[1].split("\t")[:3] == ["17", "slurm", "UNKNOWN"]
    assert "Unable to contact slurm controller" in done.stderr


def test_an_empty_list(login: Login) -> None:
    done = login.rayhpc("list")
    assert (done.exit_code, len(done.stdout.splitlines())) == (0, 1)


def test_a_table_on_a_terminal(login: Login) -> None:
    """Names in brackets are no markup."""
    login.submit(driver=["[red]x[/red]", "new\nline"])
    reading, writing = os.openpty()
    words = [sys.executable, "-m", "rayhpc", "alloc", "list"]
    environment = {**os.environ, "COLUMNS": "140", "TERM": "xterm"}
    subprocess.run(words, stdout=writing, env=environment, check=True)
    os.close(writing)
    shown = os.read(reading, 65536).decode()
    os.close(reading)
    assert "SCHEDULER" in shown
    assert "[red]x[/red]" in shown
    assert "new\\nline" in shown


def test_show(login: Login) -> None:
    login.submit(driver=["train.py", "a b"])
    text = login.rayhpc("show", "17").stdout
    assert "job        17 (slurm)\n" in text
    assert "state      RUNNING\n" in text
    assert "driver     train.py 'a b'\n" in text
    assert f"output     {login.directory}/job.out\n" in text


def test_show_names_the_runs_of_the_job(login: Login) -> None:
    login.submit()
    record_run(login, "29990101-000000-aaaaaaaa", "17", 75, "the driver asks to be run again")
    record_run(login, "29990101-000001-bbbbbbbb", "17", None)
    record_run(login, "29990101-000002-cccccccc", "18", 0)
    shown = json.loads(login.rayhpc("show", "--json").stdout)
    assert [(Path(run["directory"]).name[-8:], run["code"]) for run in shown["runs"]] == [
        ("aaaaaaaa", 75), ("bbbbbbbb", None),
    ]  # fmt: skip


def record_run(login: Login, name: str, job_id: str, code: int | None, cause: str = "") -> None:
    directory = login.home / "rayhpc-runs" / name
    directory.mkdir()
    (directory / "cluster.json").write_text(json.dumps({"batch_job_id": job_id, "scheduler": "slurm"}))
    if code is not None:
        (directory / "outcome.json").write_text(json.dumps({"code": code, "cause": cause}))


@pytest.mark.parametrize("verb", ["show", "cancel", "logs", "wait"])
def test_an_id_that_is_not_ours(login: Login, verb: str) -> None:
    login.submit()
    done = login.rayhpc(verb, "99")
    assert done.exit_code == 78
    assert "there is no allocation 99" in done.stderr
    assert "known: 17" in done.stderr


def test_no_allocation_at_all(login: Login) -> None:
    done = login.rayhpc("show")
    assert done.exit_code == 78
    assert "there is no allocation in" in done.stderr


def test_records_that_cannot_be_read_are_left_out(login: Login) -> None:
    login.submit()
    strange = (login.directory / "allocation.json").read_text().replace('"slurm"', '"of a later release"')
    for number, content in enumerate(["", "[]", "{}", "null", '{"name": 1}', "\udcff", strange]):
        directory = allocations.folder("rayhpc-runs") / f"3000-{number}"
        directory.mkdir()
        (directory / "allocation.json").write_bytes(os.fsencode(content))
    assert [entry.job_id for entry in allocations.every("rayhpc-runs")] == ["17"]


def test_the_first_part_of_an_id_will_do(login: Login) -> None:
    login.fake("qsub", "echo 12.server.domain")
    login.fake("qstat", "echo 'Job Id: 12.server.domain'; echo '    job_state = R'")
    login.submit("pbs")
    assert "state      RUNNING (R)\n" in login.rayhpc("show", "12").stdout


# ------------------------------------------------------------------------------------------------------------ wait


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("17|COMPLETED|0|None|", 0),
        ("17|FAILED|1792|NonZeroExitCode|", 7),
        ("17|FAILED|9|None|", 137),
        ("17|CANCELLED|0|None|", 143),
        ("17|TIMEOUT|0|TimeLimit|", 143),
        ("17|NODE_FAIL|0|NodeDown|", 1),
    ],
)
def test_wait_ends_with_the_jobs_code(login: Login, line: str, code: int) -> None:
    login.submit()
    login.fake("squeue", f"[[ $(sed -n '$=' \"$0.calls\") -ge 3 ]] && echo '{line}' || echo '17|RUNNING|0|None|'")
    done = login.rayhpc("wait", "17")
    assert done.exit_code == code
    assert "job 17 " in done.stderr
    assert len(login.calls("squeue")) == 3


def test_wait_for_several_jobs_with_one_question_at_a_time(login: Login) -> None:
    for _ in range(3):
        login.submit()
    squeue(login, "17|COMPLETED|0|None|", "18|FAILED|768|None|", "19|FAILED|1792|None|")
    assert login.rayhpc("wait", "17", "19", "18").exit_code == 7
    assert len(login.calls("squeue")) == 1


# --------------------------------------------------------------------------------- job arrays, and other clusters


def test_show_has_a_row_for_each_task_of_an_array(login: Login) -> None:
    login.submit("slurm", "--directive", "--array=0-2")
    squeue(login, "18|FAILED|768|NonZeroExitCode|17|0|", "19|RUNNING|0|None|17|1|", "17|PENDING|0|Resources|17|2|")
    record_run(login, "29990101-000000-aaaaaaaa", "17_0", 3, "the driver ended with 3")
    lines = login.rayhpc("show").stdout.splitlines()
    assert lines[1:5] == [
        "state      RUNNING (1 FAILED, 1 RUNNING, 1 PENDING)",
        "task 0     FAILED, exit code 3: NonZeroExitCode",
        "task 1     RUNNING",
        "task 2     PENDING: Resources",
    ]
    assert lines[-1].endswith("29990101-000000-aaaaaaaa  the driver ended with 3")


def test_wait_for_an_array_ends_with_the_first_code_that_is_not_0(login: Login) -> None:
    login.submit()
    squeue(login, "18|FAILED|768|None|17|0|", "19|FAILED|1792|None|17|1|", "17|COMPLETED|0|None|17|2|")
    done = login.rayhpc("wait")
    assert (done.exit_code, done.stderr) == (3, "job 17 FAILED (2 FAILED, 1 COMPLETED), exit code 3: task 0\n")
    login.fake("squeue", "exit 1")  # the end is recorded, with its tasks
    assert "task 1     FAILED, exit code 7\n" in login.rayhpc("show").stdout


def test_a_task_that_the_scheduler_has_forgotten_still_counts(login: Login) -> None:
    """Slurm forgets an ended task after five minutes, and many sites keep no accounts."""
    login.submit()
    login.fake("sacct", "exit 1")
    squeue(login, "18|FAILED|768|None|17|0|", "19|RUNNING|0|None|17|1|")
    assert "(1 FAILED, 1 RUNNING)" in login.rayhpc("show").stdout
    squeue(login, "19|COMPLETED|0|None|17|1|")
    record_run(login, "29990101-000000-aaaaaaaa", "17_2", 9)
    done = login.rayhpc("wait")
    assert done.exit_code == 3
    assert "(2 FAILED, 1 COMPLETED)" in done.stderr


def test_an_array_that_is_forgotten_altogether_is_known_by_its_runs(login: Login) -> None:
    login.submit()
    login.fake("sacct", "exit 1")
    squeue(login)
    for task, code in ((0, 0), (1, 4)):
        record_run(login, f"29990101-00000{task}-aaaaaaaa", f"17_{task}", code)
    assert login.rayhpc("wait").exit_code == 4


@pytest.mark.parametrize(
    ("scheduler", "said", "fakes", "code"),
    [
        ("pbs", "12[].pbs", {"qstat": "Job Id: 12[1].pbs\n    job_state = F\n    Exit_status = 5\n"
                             "Job Id: 12[2].pbs\n    job_state = F\n    Exit_status = 0"}, 5),
        ("torque", "12[].pbs", {"qstat": "Job Id: 12[1].pbs\n    job_state = C\n    exit_status = 5\n"
                                "Job Id: 12[2].pbs\n    job_state = C\n    exit_status = 0"}, 5),
        ("lsf", "Job <12> is submitted to queue <x>.", {"bjobs": "12|EXIT|5|-|1\n12|DONE|-|-|2"}, 5),
    ],
)  # fmt: skip
def test_arrays_of_other_schedulers(login: Login, scheduler: str, said: str, fakes: dict[str, str], code: int) -> None:
    login.fake("bsub" if scheduler == "lsf" else "qsub", f"echo '{said}'")
    for name, printed in fakes.items():
        login.fake(name, f"cat <<'E'\n{printed}\nE")
    assert login.submit(scheduler).exit_code == 0
    done = login.rayhpc("wait", "12")
    assert (done.exit_code, "(1 FAILED, 1 COMPLETED)" in done.stderr) == (code, True), done.stderr


def test_a_job_at_another_cluster(login: Login) -> None:
    login.fake("sbatch", "echo '4711;beta'")
    done = login.submit("slurm", "--directive", "--clusters=beta")
    assert done.stdout == "4711;beta\n"
    assert "  rayhpc alloc show '4711;beta'\n" in done.stderr
    squeue(login, "4711|RUNNING|0|None|")
    assert "job        4711;beta (slurm)\n" in login.rayhpc("show", "4711").stdout
    assert login.calls("squeue")[-1][0] == "--clusters=beta"
    login.fake("scancel", "")
    assert login.rayhpc("cancel", "4711;beta").exit_code == 0
    assert login.calls("scancel") == [["--clusters=beta", "4711"]]


def test_a_record_of_an_earlier_version_has_no_tasks(login: Login) -> None:
    login.submit()
    file = login.directory / "allocation.json"
    content = json.loads(file.read_text())
    ended = {"state": "FAILED", "word": "FAILED", "code": 7, "why": ""}
    file.write_text(json.dumps({**{k: v for k, v in content.items() if k != "tasks"}, "ended": ended}))
    assert login.rayhpc("wait").exit_code == 7


def test_wait_survives_a_controller_that_is_away_for_a_while(login: Login) -> None:
    login.submit()
    login.fake("squeue", "[[ $(sed -n '$=' \"$0.calls\") -ge 4 ]] && echo '17|COMPLETED|0|None|' || exit 1")
    assert login.rayhpc("wait").exit_code == 0


def test_wait_does_not_wait_for_a_controller_for_ever(login: Login, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wait, "_PATIENCE_SECONDS", 0.1)
    login.submit()
    login.fake("squeue", "echo 'Unable to contact' >&2; exit 1")
    done = login.rayhpc("wait")
    assert done.exit_code == 78
    assert "Unable to contact" in done.stderr


def test_a_job_that_the_scheduler_has_forgotten_ends_with_the_code_of_its_run(login: Login) -> None:
    login.submit()
    squeue(login)
    record_run(login, "29990101-000000-aaaaaaaa", "17", 7, "the driver ended with 7")
    done = login.rayhpc("wait", "17")
    assert done.exit_code == 7
    assert "the driver ended with 7" in done.stderr


def test_a_job_that_nobody_knows_is_never_a_success(login: Login) -> None:
    login.submit()
    squeue(login)
    done = login.rayhpc("wait", "17")
    assert done.exit_code == 78
    assert "nobody knows its exit code" in done.stderr
    assert len(login.calls("squeue")) == 3


def test_an_unknown_word_is_waited_for(login: Login) -> None:
    login.submit()
    login.fake(
        "squeue", "[[ $(sed -n '$=' \"$0.calls\") -ge 6 ]] && echo '17|COMPLETED|0|None|' || echo '17|WARPING|0|None|'"
    )
    assert login.rayhpc("wait", "17").exit_code == 0


def test_a_requeued_job_is_waited_for(login: Login) -> None:
    login.submit()
    login.fake(
        "squeue",
        "states=('COMPLETING|0|None' 'PENDING|0|BeginTime' 'RUNNING|0|None' 'FAILED|768|None')\n"
        'echo "17|${states[$(sed -n \'$=\' "$0.calls") - 1]}|"',
    )
    assert login.rayhpc("wait", "17").exit_code == 3


def test_the_pauses_grow_and_stop_growing(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses = status.pauses()
    taken = [next(pauses) for _ in range(12)]
    assert taken == sorted(taken)
    assert (taken[0], taken[-1]) == (1.0, 15.0)


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (JobState(State.FAILED, "FAILED", 7, "NonZeroExitCode"), "FAILED, exit code 7: NonZeroExitCode"),
        (JobState(State.CANCELLED, "F"), "CANCELLED (F), exit code 143"),
        (JobState(State.UNKNOWN), "UNKNOWN"),
    ],
)
def test_what_a_state_is_called(login: Login, state: JobState, words: str) -> None:
    login.submit()
    (allocation,) = allocations.every("rayhpc-runs")
    assert status.Seen(allocation, state).words == words


# ------------------------------------------------------------------------------------------------- the next attempt


QSTAT = """
for id in "$@"; do
    [[ $id == *.server ]] || continue
    echo "Job Id: $id"; echo "    job_state = $(cat "$id")"; echo "    Exit_status = $(cat "$id.code")"
done
"""


@pytest.fixture
def two_lives(login: Login) -> Login:
    """A PBS whose job 12 has ended with 75 and submitted job 13 to go on, which runs."""
    login.fake("qsub", "echo 12.server")
    login.fake("qstat", QSTAT)
    login.fake("qdel", "")
    login.submit("pbs")
    for name, content in (("12.server", "F"), ("12.server.code", "75"), ("13.server", "R"), ("13.server.code", "0")):
        Path(name).write_text(content)
    (login.directory / "job.out").write_text(
        "life 0\nrayhpc: the driver wants to be run again: the next attempt of job 12.server is job 13.server\n"
    )
    return login


def test_wait_goes_on_with_the_next_life(two_lives: Login) -> None:
    Path("13.server").write_text("F")
    Path("13.server.code").write_text("3")
    done = two_lives.rayhpc("wait", "12")
    assert done.exit_code == 3
    assert done.stderr.splitlines() == [
        "job 13.server PENDING (submitted again): the next attempt of job 12.server",
        "job 13.server FAILED (F), exit code 3",
    ]
    assert "before     12.server\n" in two_lives.rayhpc("show", "12").stdout
    assert "job        13.server (pbs)\n" in two_lives.rayhpc("show", "13").stdout


def test_logs_go_on_with_the_next_life(two_lives: Login) -> None:
    two_lives.fake("qstat", "[[ $(sed -n '$=' \"$0.calls\") -lt 5 ]] || echo F >13.server\n" + QSTAT)
    done = two_lives.rayhpc("logs", "-f", "12")
    assert (done.exit_code, done.stdout) == (0, (two_lives.directory / "job.out").read_text())
    assert done.stderr.splitlines() == [
        "job 13.server PENDING (submitted again): the next attempt of job 12.server",
        "job 13.server COMPLETED (F), exit code 0",
    ]


def test_a_server_that_forgets_what_has_ended_does_not_end_the_chain(two_lives: Login) -> None:
    """The code of the first attempt is known by the record of its run."""
    record_run(two_lives, "29990101-000000-aaaaaaaa", "12.server", 75)
    two_lives.fake("qstat", "echo 'Job Id: 13.server'; echo '    job_state = R'; echo 'Unknown Job Id' >&2; exit 153")
    (row,) = (line.split("\t") for line in two_lives.rayhpc("list").stdout.splitlines()[1:])
    assert row[:3] == ["13.server", "pbs", "PENDING"]
    assert two_lives.rayhpc("show", "12").stdout.startswith("job        13.server (pbs)\nstate      RUNNING (R)\n")


def test_the_life_that_runs_is_cancelled(two_lives: Login) -> None:
    two_lives.rayhpc("cancel", "12")
    assert two_lives.calls("qdel") == [["13.server"]]


def test_75_without_a_next_life_is_the_end(two_lives: Login) -> None:
    (two_lives.directory / "job.out").write_text("the next attempt of job 11.server is job 12.server\nlife 1\n")
    assert two_lives.rayhpc("wait").exit_code == 75


def test_a_lost_life_does_not_end_with_the_code_of_the_one_before(two_lives: Login) -> None:
    record_run(two_lives, "29990101-000000-aaaaaaaa", "12.server", 75)
    two_lives.rayhpc("list")
    two_lives.fake("qstat", "echo 'qstat: Unknown Job Id 13.server' >&2; exit 153")
    done = two_lives.rayhpc("wait", "13")
    assert (done.exit_code, "nobody knows" in done.stderr) == (78, True)
    assert [run["code"] for run in json.loads(two_lives.rayhpc("show", "--json").stdout)["runs"]] == [75]


# ------------------------------------------------------------------------------------------------------------ logs


def test_logs(login: Login) -> None:
    login.submit()
    (login.directory / "job.out").write_bytes(b"one\ntwo\xff\n")
    assert login.rayhpc("logs", "17").stdout_bytes == b"one\ntwo\xff\n"


def test_no_logs_yet(login: Login) -> None:
    login.submit()
    done = login.rayhpc("logs")
    assert done.exit_code == 78
    assert "job 17 has written nothing yet" in done.stderr


def test_what_the_scheduler_kept_of_a_script_that_failed_early(login: Login) -> None:
    login.fake("qsub", "echo 12.server")
    login.submit("pbs")
    (login.directory / "scheduler.out").write_text("bash: no such module\n")
    assert login.rayhpc("logs").stdout == "bash: no such module\n"


def test_logs_are_followed_until_the_job_has_ended(login: Login) -> None:
    login.submit()
    login.fake("squeue", "[[ -e ended ]] && echo '17|FAILED|1792|None|' || echo '17|RUNNING|0|None|'")
    (allocation,) = allocations.every("rayhpc-runs")
    sink, ended = io.BytesIO(), []

    def follow() -> None:
        ended.append(logs.follow(allocation, sink, print).state)

    thread = threading.Thread(target=follow)
    thread.start()
    time.sleep(0.1)
    with allocation.output.open("ab", buffering=0) as file:
        file.write(b"one\n")
        assert until(lambda: sink.getvalue() == b"one\n")
        file.write(b"two\n")
        assert until(lambda: sink.getvalue() == b"one\ntwo\n")
        (login.home / "ended").touch()
        file.write(b"three\n")
    thread.join(20)
    assert sink.getvalue() == b"one\ntwo\nthree\n"
    assert ended == [JobState(State.FAILED, "FAILED", 7)]


def test_why_a_job_waits_is_told_once(login: Login) -> None:
    login.submit()
    login.fake(
        "squeue",
        "[[ $(sed -n '$=' \"$0.calls\") -ge 5 ]] && echo '17|COMPLETED|0|None|' || echo '17|PENDING|0|Resources|'",
    )
    done = login.rayhpc("logs", "-f", "17")
    assert done.exit_code == 0
    assert done.stderr == "job 17 PENDING: Resources\njob 17 COMPLETED, exit code 0\n"


def test_logs_of_a_job_that_is_gone_come_to_an_end(login: Login) -> None:
    login.submit()
    squeue(login)
    (login.directory / "job.out").write_text("said\n")
    done = login.rayhpc("logs", "-f")
    assert (done.exit_code, done.stdout) == (0, "said\n")


def test_a_file_that_was_cut_short_is_read_from_its_beginning(login: Login) -> None:
    login.submit()
    (allocation,) = allocations.every("rayhpc-runs")
    tail, sink = logs._Tail(allocation), io.BytesIO()
    allocation.output.write_text("first attempt\n")
    tail.copy(sink)
    allocation.output.write_text("second\n")
    tail.copy(sink)
    assert sink.getvalue() == b"first attempt\nsecond\n"


# ---------------------------------------------------------------------------------------------------- cancel, init


def test_cancel(login: Login) -> None:
    login.submit()
    login.submit()
    login.fake("scancel", "")
    done = login.rayhpc("cancel", "17", "18")
    assert done.exit_code == 0
    assert login.calls("scancel") == [["17", "18"]]
    assert "asked slurm to end 17, 18\n" in done.stderr


def test_an_interrupt_ends_the_waiting_and_not_the_job(login: Login, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    login.submit()
    monkeypatch.setattr(alloc, "wait_for_allocations", interrupted)
    done = login.rayhpc("wait", "17")
    assert (done.exit_code, done.output) == (130, "")


def test_what_has_ended_is_not_cancelled(login: Login) -> None:
    login.submit()
    squeue(login, "17|COMPLETED|0|None|")
    login.rayhpc("list")
    done = login.rayhpc("cancel", "17")
    assert (done.exit_code, done.stderr) == (0, "job 17 has ended already: COMPLETED\n")


def test_cancel_says_which(login: Login) -> None:
    login.submit()
    assert login.rayhpc("cancel").exit_code == 2


def test_a_refused_cancel(login: Login) -> None:
    login.submit()
    login.fake("scancel", "echo 'scancel: error: Kill job error on job id 17: Access denied' >&2; exit 1")
    done = login.rayhpc("cancel", "17")
    assert done.exit_code == 78
    assert "Access denied" in done.stderr


@pytest.mark.parametrize("scheduler", ["slurm", "pbs", "torque", "cobalt"])
def test_init_copies_a_script_that_can_be_submitted(login: Login, scheduler: str) -> None:
    done = login.rayhpc("init", scheduler)
    name = SYSTEMS[scheduler].script
    assert (done.exit_code, done.stdout) == (0, f"{name}\n")
    assert Path(name).read_bytes() == (FOLDER / name).read_bytes()
    again = login.rayhpc("init", scheduler)
    assert again.exit_code == 78
    assert "File exists" in again.stderr
    assert login.rayhpc("init", scheduler, "--force").exit_code == 0
    assert login.rayhpc("init", scheduler, "--to", "other").exit_code == 0
    done = login.rayhpc("submit", scheduler, "-N", "2", "--script", name, "--dry-run", "--", "./x")
    assert done.exit_code == 0, done.stderr
    assert "\nset -- ./x\n" in done.stdout


def test_the_shipped_script_is_what_is_submitted(login: Login) -> None:
    assert login.rayhpc("submit", "slurm", "-N", "2", "--", "./x").exit_code == 0
    copy = (login.directory / "slurm.sbatch").read_text()
    assert copy.split("\n")[0] == (FOLDER / "slurm.sbatch").read_text().split("\n")[0]
    assert "\nset -- ./x\n" in copy


def test_the_login_side_needs_neither_ray_nor_mpi() -> None:
    unwanted = "{'ray', 'mpi4py', 'rich', 'psutil'}"
    script = f"import sys, rayhpc.cli.main; sys.exit(' '.join({unwanted} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("flag", "value"), [("--check", "stop"), ("--check=exclude", "exclude")])
def test_a_check_before_the_driver_is_a_setting_of_the_script(login: Login, flag: str, value: str) -> None:
    done = login.submit("slurm", flag, "--dry-run", driver=["train.py"])
    assert done.exit_code == 0, done.output
    assert f"export RAYHPC_CHECK=${{RAYHPC_CHECK-{value}}}\n" in done.stdout
    assert "RAYHPC_CHECK" not in login.submit("slurm", "--dry-run", driver=["train.py"]).stdout


def test_spares_are_hosts_more(login: Login) -> None:
    done = login.submit("slurm", "-N", "4", "--spares", "2", "--dry-run", driver=["train.py"])
    assert done.exit_code == 0, done.output
    assert "--nodes=6" in done.stdout
    assert "export RAYHPC_SPARES=${RAYHPC_SPARES-2}\n" in done.stdout


def test_spares_need_a_number_of_hosts(login: Login) -> None:
    done = login.submit("slurm", "--spares", "2", "--dry-run", driver=["train.py"])
    assert (done.exit_code, "--spares needs -N" in done.stderr) == (2, True)


def test_a_driver_is_not_taken_for_the_value_of_check(login: Login) -> None:
    done = login.rayhpc("submit", "slurm", "--dry-run", "--check", "train.py", "train.py")
    assert done.exit_code == 2
    assert "before a driver write --check -- DRIVER" in done.stderr
