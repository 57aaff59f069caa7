"""The schedulers' commands, run: what they print, refuse, or never answer. The commands are real executables."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from rayhpc import schedulers
from rayhpc.errors import ExitCode, RayhpcError
from rayhpc.schedulers import SYSTEMS, commands
from rayhpc.schedulers.facts import JobState, State
from tests.unit.batch_fakes import Login, login_node
from tests.unit.making import code_of

SLURM = SYSTEMS["slurm"]
SBATCH = ["sbatch", "--parsable", "script"]


@pytest.fixture
def login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Login:
    return login_node(tmp_path, monkeypatch)


def test_a_banner_before_the_id(login: Login) -> None:
    login.fake("sbatch", "echo 'Welcome to 2026'; echo; echo 17; echo 'a note' >&2")
    assert commands.submit(SLURM, SBATCH, Path("script")) == "17"
    assert login.calls("sbatch") == [["--parsable", "script"]]


def test_a_refusal_has_four_parts(login: Login) -> None:
    login.fake(
        "sbatch",
        "echo 'Welcome'; echo 'sbatch: error: invalid partition specified: nosuch' >&2\n"
        "echo 'sbatch: error: Batch job submission failed: Invalid partition name specified' >&2; exit 1",
    )
    with pytest.raises(RayhpcError) as error:
        commands.submit(SLURM, SBATCH, Path("script"))
    assert error.value.fault.text() == (
        "rayhpc: sbatch refused the job\n"
        "    command: sbatch --parsable script\n"
        "    exit code: 1\n"
        "    Welcome\n"
        "    sbatch: error: invalid partition specified: nosuch\n"
        "    sbatch: error: Batch job submission failed: Invalid partition name specified\n"
        "  next: correct the request, or the directives in script; --dry-run shows both\n"
        "  exit code 78: the allocation, the environment or an option cannot work"
    )


def test_a_command_that_is_missing(login: Login) -> None:
    with pytest.raises(RayhpcError, match="sbatch cannot be run: No such file") as error:
        commands.submit(SLURM, SBATCH, Path("script"))
    assert code_of(error.value) is ExitCode.CONFIGURATION
    assert "login node" in error.value.fault.next_step
    assert any(line.startswith("PATH: ") for line in error.value.fault.evidence)


def test_a_command_that_cannot_be_executed(login: Login) -> None:
    login.fake("sbatch", "")
    (login.bin / "sbatch").chmod(0o644)
    with pytest.raises(RayhpcError, match="sbatch cannot be run: Permission denied"):
        commands.submit(SLURM, SBATCH, Path("script"))


def test_success_without_an_id(login: Login) -> None:
    login.fake("qsub", "echo 'Your job has been filed for review.'")
    with pytest.raises(RayhpcError, match="qsub printed no job id") as error:
        commands.submit(SYSTEMS["pbs"], ["qsub", "script"], Path("script"))
    assert "exit code: 0" in error.value.fault.evidence
    assert "qstat -u" in error.value.fault.next_step


def test_a_command_that_does_not_answer(login: Login) -> None:
    login.fake("squeue", "sleep 77 & wait")
    began = time.monotonic()
    with pytest.raises(RayhpcError, match=r"squeue has not answered within 0.2 s"):
        commands.run(["squeue"], 0.2)
    assert time.monotonic() - began < 5


def test_a_command_that_answers_with_any_bytes(login: Login) -> None:
    login.fake("squeue", r"printf '1|RUNNING|0|None|\n\xff\xfe\n'; printf '\xff' >&2")
    assert commands.states(SLURM, ["1"]) == {"1": JobState(State.RUNNING, "RUNNING")}


def test_lsf_gets_the_script_on_its_standard_input(login: Login) -> None:
    login.fake("bsub", 'cat >>received; echo "Job <5> is submitted to queue <normal>."')
    Path("script").write_text("#BSUB -n 4\n")
    assert commands.submit(SYSTEMS["lsf"], ["bsub", "-n", "4"], Path("script")) == "5"
    assert Path("received").read_text() == "#BSUB -n 4\n"


# ---------------------------------------------------------------------------------------------------------- states


def test_one_call_tells_all_states(login: Login) -> None:
    login.fake("squeue", "echo '7|RUNNING|0|None|'; echo '8|PENDING|0|Resources|'; echo '9|COMPLETED|0|None|'")
    states = commands.states(SLURM, ["7", "8", "9"])
    assert [state.state for state in states.values()] == [State.RUNNING, State.PENDING, State.COMPLETED]
    assert len(login.calls("squeue")) == 1
    assert "--jobs=7,8,9" in login.calls("squeue")[0]


def test_what_squeue_has_forgotten_is_in_the_accounts(login: Login) -> None:
    login.fake("squeue", "echo '7|RUNNING|0|None|'")
    login.fake("sacct", "echo '8|FAILED|7:0'")
    assert commands.states(SLURM, ["7", "8"])["8"] == JobState(State.FAILED, "FAILED", 7)
    assert "--jobs=8" in login.calls("sacct")[0]


def test_slurm_without_accounts(login: Login) -> None:
    # As Slurm 22.05 says it.
    login.fake("squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    login.fake("sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")
    assert commands.states(SLURM, ["9999"]) == {"9999": JobState(State.UNKNOWN, "")}


def test_jobs_at_other_clusters_are_asked_for_there(login: Login) -> None:
    login.fake("squeue", "case $1 in --clusters=beta) echo '7|FAILED|768|None|' ;; *) echo '7|RUNNING|0|None|' ;; esac")
    told = commands.states(SLURM, ["7", "7;beta"])
    assert (told["7"].state, told["7;beta"].code) == (State.RUNNING, 3)
    assert [call[:1] for call in login.calls("squeue")] == [["--noheader"], ["--clusters=beta"]]
    login.fake("sacct", "echo '8|COMPLETED|0:0'")
    assert commands.states(SLURM, ["8;beta"])["8;beta"].exit_code == 0
    assert login.calls("sacct")[-1][0] == "--clusters=beta"
    login.fake("scancel", "")
    commands.cancel(SLURM, ["7", "7;beta", "8;beta"])
    assert login.calls("scancel") == [["7"], ["--clusters=beta", "7", "8"]]


def test_the_tasks_that_squeue_has_forgotten_are_in_the_accounts(login: Login) -> None:
    login.fake("squeue", "echo '17|COMPLETED|0|None|17|2|'")
    login.fake("sacct", "echo '17_0|FAILED|3:0'; echo '17_2|COMPLETED|0:0'")
    told = commands.states(SLURM, ["17"])["17"]
    assert (told.exit_code, [task for task, _ in told.tasks]) == (3, ["0", "2"])
    login.fake("squeue", "echo '17|RUNNING|0|None|17|2|'")
    assert commands.states(SLURM, ["17"])["17"].state is State.RUNNING
    assert len(login.calls("sacct")) == 1


def test_inside_a_job_its_own_cluster_is_asked(login: Login, monkeypatch: pytest.MonkeyPatch) -> None:
    """scontrol refuses a list of clusters, which SLURM_CLUSTERS of the login shell may be."""
    login.fake("scontrol", 'echo "StartTime=x EndTime=Unknown clusters=${SLURM_CLUSTERS-none}"')
    monkeypatch.setenv("SLURM_CLUSTERS", "alpha,beta")
    environ = {"SLURM_JOB_ID": "18", "SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "0"}
    assert "clusters=none" in commands.describe(schedulers.SLURM, environ)[0]
    assert login.calls("scontrol")[-1][-1] == "17_0"


def test_a_controller_that_is_down(login: Login) -> None:
    login.fake("squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(RayhpcError, match="squeue refused to tell the jobs' states") as error:
        commands.states(SLURM, ["7"])
    assert "slurm_load_jobs error: Unable to contact slurm controller" in error.value.fault.evidence


def test_the_accounts_answer_while_the_controller_is_down(login: Login) -> None:
    login.fake("squeue", "exit 1")
    login.fake("sacct", "echo '7|COMPLETED|0:0'")
    assert commands.states(SLURM, ["7"])["7"].state is State.COMPLETED


def test_pbs_that_keeps_ended_jobs(login: Login) -> None:
    login.fake(
        "qstat",
        "echo 'Job Id: 12.server.domain'; echo '    job_state = F'; echo '    Exit_status = 7'\n"
        "echo 'qstat: Unknown Job Id 13.server' >&2; exit 153",
    )
    states = commands.states(SYSTEMS["pbs"], ["12.server", "13.server"])
    assert states == {"12.server": JobState(State.FAILED, "F", 7), "13.server": JobState(State.UNKNOWN)}
    assert login.calls("qstat") == [["-x", "-f", "12.server", "13.server"]]


def test_pbs_that_does_not_keep_ended_jobs(login: Login) -> None:
    login.fake(
        "qstat",
        "[[ $1 != -x ]] || { echo 'qstat: PBS is not configured to maintain job history' >&2; exit 1; }\n"
        "echo 'Job Id: 12.server'; echo '    job_state = R'",
    )
    assert commands.states(SYSTEMS["pbs"], ["12.server"])["12.server"].state is State.RUNNING
    assert len(login.calls("qstat")) == 2


def test_no_ids_no_question(login: Login) -> None:
    assert commands.states(SLURM, []) == {}


# ---------------------------------------------------------------------------------------------------------- cancel


def test_one_call_cancels_all(login: Login) -> None:
    login.fake("scancel", "")
    commands.cancel(SLURM, ["7", "8"])
    assert login.calls("scancel") == [["7", "8"]]


def test_a_refused_cancel(login: Login) -> None:
    login.fake("qdel", "echo 'qdel: Job has finished 12.server' >&2; exit 35")
    with pytest.raises(RayhpcError, match=r"qdel refused to end 12\.server") as error:
        commands.cancel(SYSTEMS["pbs"], ["12.server"])
    assert "exit code: 35" in error.value.fault.evidence


# --------------------------------------------------------------------------------------- the end of one's own job


NOW = 1_795_258_350.0


def test_the_end_of_the_job_by_asking(login: Login) -> None:
    login.fake("scontrol", "echo 'JobId=11 StartTime=2026-11-21T10:52:30 EndTime=2026-11-21T11:52:30 Deadline=N/A'")
    end, warning = commands.deadline(schedulers.SLURM, {"SLURM_JOB_ID": "11"}, NOW)
    assert (end, warning) == (time.mktime((2026, 11, 21, 11, 52, 30, 0, 0, -1)), "")
    assert login.calls("scontrol") == [["-o", "show", "job", "11"]]


def test_the_environment_is_believed_first(login: Login) -> None:
    environ = {"SLURM_JOB_ID": "11", "SLURM_JOB_END_TIME": "5"}
    assert commands.deadline(schedulers.SLURM, environ, NOW) == (5.0, "")


@pytest.mark.parametrize(
    ("body", "warning"),
    [
        ("echo 'qstat: cannot connect to server' >&2; exit 111", "qstat -f 1.x ended with 111: qstat: cannot connect"),
        ("exit 3", "ended with 3: it printed nothing"),
        (None, "qstat cannot be run"),
        ("sleep 77", "has not answered"),
    ],
)
def test_asking_in_vain_is_a_warning(
    login: Login, monkeypatch: pytest.MonkeyPatch, body: str | None, warning: str
) -> None:
    monkeypatch.setattr(commands, "_DEADLINE_SECONDS", 0.3)
    if body is not None:
        login.fake("qstat", body)
    end, told = commands.deadline(schedulers.PBS, {"PBS_JOBID": "1.x"}, NOW)
    assert end is None
    assert told.startswith("the end of the job is not known: ")
    assert warning in told


def test_an_answer_without_an_end_is_no_warning(login: Login) -> None:
    login.fake("scontrol", "echo 'JobId=11 StartTime=2026-11-21T10:52:30 EndTime=Unknown Deadline=N/A'")
    assert commands.deadline(schedulers.SLURM, {"SLURM_JOB_ID": "11"}, NOW) == (None, "")


# ------------------------------------------------------------------------------------------------ the environment


def test_the_environment_of_a_login_shell_is_handed_on() -> None:
    environ = {"OMPI_MCA_btl": "tcp", "SLURM_CONF": "/c", "RAYHPC_NUM_CPUS": "2", "RAY_ADDRESS": "a:1", "HOME": "/h"}
    assert commands.outside(environ) == environ


def test_what_changes_the_commands_output_is_not() -> None:
    assert commands.outside({"SLURM_TIME_FORMAT": "%s", "SQUEUE_USERS": "x", "SBATCH_ACCOUNT": "a"}) == {
        "SBATCH_ACCOUNT": "a"
    }


def test_a_job_submitted_from_a_job_is_not_part_of_it() -> None:
    environ = {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "8", "SLURM_CONF": "/c", "SLURM_CLUSTERS": "x", "HOME": "/h"}
    assert commands.outside(environ) == {"SLURM_CONF": "/c", "SLURM_CLUSTERS": "x", "HOME": "/h"}


def test_a_job_submitted_by_a_driver_is_not_part_of_its_run() -> None:
    environ = {
        "RAYHPC_NODE": "run/0", "RAYHPC_RUN_ID": "run", "RAYHPC_RUN_DIR": "/r/run", "RAYHPC_DEADLINE": "5",
        "RAYHPC_DEADLINE_FILE": "/r/run/deadline",
        "RAYHPC_RESTARTS": "1", "RAYHPC_CHAIN": "12", "RAY_ADDRESS": "a:1", "RAYHPC_NUM_CPUS": "2",
        "RAYHPC_ALIVE_NODES": "4",
    }  # fmt: skip
    assert commands.outside(environ) == {"RAYHPC_NUM_CPUS": "2"}
