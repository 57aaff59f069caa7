"""Job arrays: the states of the tasks, as each scheduler prints them, make the array's."""

from __future__ import annotations

import pytest

from rayhpc import schedulers
from rayhpc.schedulers import arrays, lsf, pbs, slurm
from rayhpc.schedulers.facts import JobState, Scheduler, State, own_id

DONE, FAILED = JobState(State.COMPLETED, "DONE", 0), JobState(State.FAILED, "EXIT", 7, "oom")
RUNS, WAITS = JobState(State.RUNNING, "RUN"), JobState(State.PENDING, "PEND")


@pytest.mark.parametrize(
    ("tasks", "state", "code", "why"),
    [
        ({"1": DONE, "2": DONE}, State.COMPLETED, 0, ""),
        ({"1": FAILED, "2": DONE}, State.FAILED, 7, "task 1 oom"),
        ({"10": FAILED, "2": JobState(State.TIMEOUT, "TIMEOUT")}, State.TIMEOUT, 143, "task 2"),
        ({"1": FAILED, "2": RUNS}, State.RUNNING, None, ""),
        ({"1": DONE, "2": WAITS}, State.RUNNING, None, ""),
        ({"1": WAITS, "2-9": WAITS}, State.PENDING, None, ""),
        ({"1": JobState(State.ENDED, "X"), "2": DONE}, State.ENDED, None, ""),
        ({"1": JobState(State.ENDED, "X"), "2": FAILED}, State.FAILED, 7, "task 2 oom"),
        ({"1": JobState(State.UNKNOWN, "?"), "2": WAITS}, State.PENDING, None, ""),
    ],
)
def test_an_array_has_ended_when_all_tasks_have_with_the_first_code_that_is_not_0(
    tasks: dict[str, JobState], state: State, code: int | None, why: str
) -> None:
    made = arrays.combined(tasks)
    assert (made.state, made.exit_code, made.why) == (state, code, why)
    assert dict(made.tasks) == tasks


def test_tasks_are_counted_in_their_order() -> None:
    made = arrays.combined({"10": DONE, "2": FAILED, "9": DONE})
    assert made.word == "1 FAILED, 2 COMPLETED"
    assert [task for task, _ in made.tasks] == ["2", "9", "10"]


def test_an_array_that_has_not_ended_has_tasks_that_are_not_shown() -> None:
    assert arrays.combined({"1": DONE}, JobState(State.RUNNING, "B")).state is State.RUNNING
    assert arrays.combined({"1": DONE}, JobState(State.COMPLETED, "F", 0)).state is State.COMPLETED


def test_two_answers_are_one() -> None:
    first, second = arrays.combined({"2": RUNS}), arrays.combined({"1": FAILED, "2": WAITS})
    assert arrays.merged(first, second) == arrays.combined({"1": FAILED, "2": RUNS})
    assert arrays.merged(None, second) == second
    assert arrays.merged(DONE, FAILED) == DONE


# What Slurm 22.05 prints for `sbatch --array=0-2`: the last task has the array's own id.
SQUEUE = """18|FAILED|768|NonZeroExitCode|17|0|
19|COMPLETED|0|None|17|1|
17|COMPLETED|0|None|17|2|
20|RUNNING|0|None|20|N/A|
"""


def test_an_array_by_squeue() -> None:
    found = slurm.read_squeue(SQUEUE)
    assert (found["17"].state, found["17"].exit_code, found["17"].word) == (State.FAILED, 3, "1 FAILED, 2 COMPLETED")
    assert [task for task, _ in found["17"].tasks] == ["0", "1", "2"]
    assert found["17_0"] == found["18"] == JobState(State.FAILED, "FAILED", 3, "NonZeroExitCode")
    assert found["20"] == JobState(State.RUNNING, "RUNNING")


def test_an_array_by_sacct() -> None:
    found = slurm.read_sacct("17_0|FAILED|3:0\n17_1|COMPLETED|0:0\n17_[2-9%3]|PENDING|0:0\n20|COMPLETED|0:0\n")
    assert [(task, state.state.name) for task, state in found["17"].tasks] == [
        ("0", "FAILED"), ("1", "COMPLETED"), ("2-9", "PENDING"),
    ]  # fmt: skip
    assert found["17"].state is State.RUNNING
    assert found["20"].state is State.COMPLETED


QSTAT = """Job Id: 12[].pbs
    job_state = B
    array = True
Job Id: 12[1].pbs
    job_state = X
    Exit_status = 3
Job Id: 12[2].pbs
    job_state = X
    Exit_status = 0
"""


@pytest.mark.parametrize(("whole", "state"), [("B", State.RUNNING), ("F", State.FAILED)])
def test_an_array_by_qstat(whole: str, state: State) -> None:
    found = pbs.read_qstat(pbs._PBS, QSTAT.replace("= B", f"= {whole}"))
    assert found["12"].state is state
    assert [(task, each.exit_code) for task, each in found["12"].tasks] == [("1", 3), ("2", 0)]
    assert found["12_1"].code == 3


@pytest.mark.parametrize("system", ["pbs", "torque"])
def test_qstat_is_asked_for_tasks_of_arrays_alone(system: str) -> None:
    query = schedulers.SYSTEMS[system].queries[0]
    assert query.argv(["12[].pbs", "13.pbs"])[-3:] == ["-t", "12[].pbs", "13.pbs"]
    assert "-t" not in query.argv(["13.pbs", "12[3].pbs"])


def test_an_array_by_bjobs() -> None:
    found = lsf.read_bjobs("5|EXIT|7|-|1\n5|DONE|-|-|2\n6|RUN|-|-|0\n7|DONE|-|-\n")
    assert (found["5"].exit_code, found["5"].word) == (7, "1 FAILED, 1 COMPLETED")
    assert found["6"] == JobState(State.RUNNING, "RUN")
    assert found["7"] == JobState(State.COMPLETED, "DONE")


@pytest.mark.parametrize(
    ("scheduler", "environ", "job_id"),
    [
        (schedulers.SLURM, {"SLURM_JOB_ID": "18", "SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "0"}, "17_0"),
        (schedulers.SLURM, {"SLURM_JOB_ID": "18"}, "18"),
        (schedulers.PBS, {"PBS_JOBID": "12[1].pbs"}, "12[1].pbs"),
        (schedulers.LSF, {"LSB_JOBID": "5", "LSB_JOBINDEX": "2"}, "5[2]"),
        (schedulers.LSF, {"LSB_JOBID": "5", "LSB_JOBINDEX": "0"}, "5"),
        (schedulers.COBALT, {"COBALT_JOBID": "9"}, "9"),
    ],
)
def test_the_own_id_is_the_tasks(scheduler: Scheduler, environ: dict[str, str], job_id: str) -> None:
    assert own_id(scheduler, environ) == job_id
