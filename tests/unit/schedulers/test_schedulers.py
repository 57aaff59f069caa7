"""Schedulers as values: what they are told, what is read from what they print. All pure."""

from __future__ import annotations

import math
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rayhpc import schedulers
from rayhpc.schedulers import SYSTEMS, cobalt, flux, lsf, pbs, sge, slurm
from rayhpc.schedulers.facts import (
    BatchSystem,
    JobState,
    Request,
    Scheduler,
    State,
    cluster_of,
    job_of,
    last_match,
    number,
    short,
    task_of,
)

FULL: dict[str, Any] = {
    "nodes": 4, "time": "60", "account": "acct", "queue": "debug", "cpus_per_node": 32,
    "gpus_per_node": 2, "ranks_per_host": "8",
    "name": "ppo",
}  # fmt: skip
OUTPUT = "/runs/a%j/job.out"
SCRIPT = "#!/bin/bash\n#PBS -l select=2:ncpus=64:mpiprocs=1\n#PBS -l place=scatter\n#$ -pe mpi 4\n"

systems = pytest.mark.parametrize("system", SYSTEMS.values(), ids=list(SYSTEMS))
text_lines = st.lists(st.text(st.characters(exclude_characters="\r\n")), max_size=8)


# ------------------------------------------------------------------------------------------------------ directives


ORACLES = {
    "slurm": {
        "--nodes=4", "--time=01:00:00", "--account=acct", "--partition=debug", "--mincpus=32", "--gpus-per-node=2",
        "--job-name=ppo", "--output=/runs/a%%j/job.out", "--open-mode=append",
    },
    "pbs": {
        "-l select=4:ncpus=32:mpiprocs=8:ngpus=2", "-l walltime=01:00:00", "-A acct", "-q debug", "-N ppo", "-j oe",
        f"-o {OUTPUT}",
    },
    "torque": {
        "-l nodes=4:ppn=32:gpus=2", "-l walltime=01:00:00", "-A acct", "-q debug", "-N ppo", "-j oe", f"-o {OUTPUT}",
    },
    "cobalt": {
        "-n 4", "-t 60", "-A acct", "-q debug", "--jobname ppo", f"-o {OUTPUT}", f"-e {OUTPUT}.error",
    },
    "lsf": {
        "-n 128", "-R span[ptile=32]", "-W 1:00", "-P acct", "-q debug", "-gpu num=2", "-J ppo", f"-o {OUTPUT}",
    },
    "flux": {
        "--nodes=4", "--nslots=4", "--cores-per-slot=32", "--gpus-per-slot=2", "--time-limit=3600s", "--bank=acct",
        "--queue=debug", "--job-name=ppo", f"--output={OUTPUT}",
    },
    "sge": {"-pe mpi 128", "-l h_rt=3600", "-P acct", "-q debug", "-N ppo", "-j y", f"-o {OUTPUT}"},
}  # fmt: skip
# What each adds although nothing was asked for.
ALWAYS = {
    "slurm": {"--output=/runs/a%%j/job.out", "--open-mode=append"},
    "pbs": {"-j oe", f"-o {OUTPUT}"},
    "torque": {"-l nodes=2:ppn=64", "-j oe", f"-o {OUTPUT}"},
    "cobalt": {f"-o {OUTPUT}", f"-e {OUTPUT}.error"},
    "lsf": {f"-o {OUTPUT}"},
    "flux": {f"--output={OUTPUT}"},
    "sge": {"-j y", f"-o {OUTPUT}"},
}


def paired(words: list[str]) -> set[str]:
    """{'-A acct', '--nodes=4'}: a flag of two words as one."""
    found: list[str] = []
    for word in words:
        takes = (
            bool(found)
            and "=" not in found[-1]
            and found[-1].startswith("-")
            and found[-1].count(" ") < (2 if found[-1].startswith("-pe") else 1)
        )
        if takes and not word.startswith("-"):
            found[-1] += f" {word}"
        else:
            found.append(word)
    return set(found)


@systems
def test_directives(system: BatchSystem) -> None:
    without = {"cobalt": ("gpus_per_node", "cpus_per_node"), "sge": ("gpus_per_node",)}
    wanted = {**FULL, **dict.fromkeys(without.get(system.name, ()))}
    assert paired(system.flags(Request(**wanted), OUTPUT, SCRIPT)) == ORACLES[system.name]


@systems
def test_what_is_not_asked_for_is_left_to_the_script(system: BatchSystem) -> None:
    assert paired(system.flags(Request(), OUTPUT, SCRIPT)) == ALWAYS[system.name]


@systems
def test_there_is_an_oracle_for_every_scheduler(system: BatchSystem) -> None:
    assert system.name in ORACLES
    assert system.name in ALWAYS


@pytest.mark.parametrize("request_", [Request(gpus_per_node=1), Request(cpus_per_node=1)])
def test_cobalt_gives_whole_hosts(request_: Request) -> None:
    with pytest.raises(ValueError, match="whole hosts"):
        SYSTEMS["cobalt"].flags(request_, OUTPUT, "")


def test_lsf_counts_slots() -> None:
    assert SYSTEMS["lsf"].flags(Request(nodes=4), OUTPUT, "")[:4] == ["-n", "4", "-R", "span[ptile=1]"]
    with pytest.raises(ValueError, match="needs -N"):
        SYSTEMS["lsf"].flags(Request(cpus_per_node=8), OUTPUT, "")


@pytest.mark.parametrize(
    ("script", "request_", "chunk"),
    [
        ("#PBS -l select=2:ncpus=64", {"nodes": 4}, "select=4:ncpus=64"),
        ("#PBS  -l  walltime=1:00,select=2:ncpus=64", {"nodes": 4}, "select=4:ncpus=64"),
        ("#PBS -l select=2:ncpus=64:ngpus=4", {"gpus_per_node": 0}, "select=2:ncpus=64:ngpus=0"),
        ("#PBS -l select=2:ncpus=64", {"cpus_per_node": 8}, "select=2:ncpus=8"),
        ("#PBS -l select=2:system=polaris", {"ranks_per_host": "4"}, "select=2:system=polaris:mpiprocs=4"),
        ("#PBS -l nodes=2:ppn=16:gpus=1", {"nodes": 3}, "select=3:ncpus=16:ngpus=1"),
        ("", {"nodes": 4}, "select=4"),
        ("# PBS -l select=9:ncpus=9", {"nodes": 4}, "select=4"),
        ("#PBS -l select=1:ncpus=2+3:ncpus=4", {}, None),
        ("#PBS -l select=2:ncpus=64", {}, None),
    ],
)
def test_the_chunk_of_pbs_is_the_scripts_own_with_what_was_asked_for(
    script: str, request_: dict[str, Any], chunk: str | None
) -> None:
    flags = SYSTEMS["pbs"].flags(Request(**request_), OUTPUT, script)
    assert [word for word in flags if word.startswith(("select", "nodes"))] == ([chunk] if chunk else [])


@pytest.mark.parametrize(
    ("name", "script", "request_", "what"),
    [
        ("pbs", "#PBS -l select=1:ncpus=2+3:ncpus=4", {"nodes": 4}, "several kinds"),
        ("pbs", "", {"gpus_per_node": 2}, "how many hosts"),
        ("sge", "#$ -pe mpi 4", {"gpus_per_node": 2}, "that all sites share"),
        ("sge", "#$ -pe mpi 4", {"cpus_per_node": 2}, "needs -N"),
        ("flux", "", {"cpus_per_node": 2}, "need -N"),
        ("sge", "#$ -cwd", {"nodes": 2}, "needs a parallel environment"),
    ],
)
def test_a_chunk_that_cannot_be_said(name: str, script: str, request_: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        SYSTEMS[name].flags(Request(**request_), OUTPUT, script)


def test_torque_does_not_get_pbs_pros_resources() -> None:
    adapted = SYSTEMS["torque"].adapted(SCRIPT + "#PBS -l walltime=1:00\n")
    assert [line for line in adapted.splitlines() if line.startswith("#PBS")] == ["#PBS -l walltime=1:00"]
    assert SYSTEMS["pbs"].adapted(SCRIPT) == SCRIPT


@systems
@given(script=st.text(), nodes=st.none() | st.integers(1, 9), gpus=st.none() | st.integers(0, 9))
@example(script="#PBS -l select=", nodes=None, gpus=1)
@example(script="#PBS -l select=:::=,+", nodes=2, gpus=1)
def test_any_script_gives_flags_or_a_value_error(
    system: BatchSystem, script: str, nodes: int | None, gpus: int | None
) -> None:
    try:
        flags = system.flags(Request(nodes=nodes, gpus_per_node=gpus), OUTPUT, script)
    except ValueError as error:
        assert str(error)
    else:
        assert all(isinstance(word, str) and word for word in flags)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("60", 3600),
        ("1", 60),
        ("30:00", 1800),
        ("01:00:00", 3600),
        ("1-12", 129600),
        ("2-00:00:30", 172830),
        ("", None),
    ],
)
def test_a_time_limit(text: str, seconds: int | None) -> None:
    assert Request(time=text).seconds == seconds


@pytest.mark.parametrize("text", ["0", "00:00", "an hour", "-5", "60s", "1.5", "9" * 20, "²", "60\n60"])
def test_what_is_no_time_limit(text: str) -> None:
    with pytest.raises(ValueError, match=r"no (time limit|duration)"):
        _ = Request(time=text).seconds


@given(st.text())
def test_any_time_limit_is_seconds_or_a_value_error(text: str) -> None:
    try:
        seconds = Request(time=text).seconds
    except ValueError:
        return
    assert seconds is None or seconds > 0


@pytest.mark.parametrize(("text", "ranks"), [("", None), ("8", 8), ("gpu", None), ("numa", None)])
def test_ranks_per_host(text: str, ranks: int | None) -> None:
    assert Request(ranks_per_host=text).ranks == ranks


@pytest.mark.parametrize("text", ["0", "-1", "two", "8 "])
def test_what_is_no_number_of_ranks(text: str) -> None:
    with pytest.raises(ValueError, match="ranks-per-host"):
        _ = Request(ranks_per_host=text).ranks


# ---------------------------------------------------------------------------------------------- what submit prints


BANNER = """-----------------------------------------------------------------
          Welcome to the Big Machine, est. 2026
-----------------------------------------------------------------
No reservation for this job
--> Verifying valid submit host (login1)...OK
--> Checking available allocation (acct)...OK
2026
"""
PRINTED = {
    "slurm": [("123\n", "123"), ("123;beta\n", "123;beta"), ("Submitted batch job 123\n", "123"),
              ("Submitted batch job 123 on cluster beta\n", "123;beta")],
    "pbs": [("123.server.domain\n", "123.server.domain"), ("123\n", "123"), ("123[].pbs\n", "123[].pbs")],
    "torque": [("123.server\n", "123.server")],
    "cobalt": [('Job routed to queue "debug".\nMemory mode set to cache quad for queue debug\n123\n', "123")],
    "lsf": [("Job <123> is submitted to queue <normal>.\n", "123")],
    "flux": [("\u01922q\n", "106"), ("f2q\n", "106"), ("123\n", "123")],
    "sge": [("123\n", "123"), ("123.1-10:1\n", "123"), ('Your job 123 ("x") has been submitted\n', "123")],
}


@systems
def test_the_id_in_what_submit_prints(system: BatchSystem) -> None:
    for printed, job_id in PRINTED[system.name]:
        assert system.read_id(printed) == job_id
        assert system.read_id(BANNER + printed) == job_id


@systems
@pytest.mark.parametrize("text", ["", BANNER.replace("2026\n", ""), "There was an error running the command.\n"])
def test_no_id_in_what_submit_prints(system: BatchSystem, text: str) -> None:
    assert system.read_id(text) is None


@systems
@given(before=text_lines, job=st.integers(1, 10**9))
def test_a_banner_before_the_id_does_not_matter(system: BatchSystem, before: list[str], job: int) -> None:
    printed = f"Job <{job}> is submitted to queue <q>." if system.name == "lsf" else str(job)
    assert system.read_id("\n".join([*before, printed, ""])) == str(job)


@systems
@given(st.text())
def test_any_text_gives_an_id_of_plain_characters_or_none(system: BatchSystem, text: str) -> None:
    job_id = system.read_id(text)
    assert job_id is None or job_id[0] in "0123456789"
    assert job_id is None or all(character.isascii() and not character.isspace() for character in job_id)


# --------------------------------------------------------------------------------------------------------- states


# Slurm 22.05.8, as it printed them.
SQUEUE = """4|CANCELLED|15|None|
1|COMPLETED|0|None|
9|COMPLETED|0|None|
2|FAILED|1792|NonZeroExitCode|
3|FAILED|15|JobLaunchFailure|
6|PENDING|0|BeginTime|
7|RUNNING|0|None|
8|TIMEOUT|15|TimeLimit|
10|CANCELLED|0|BeginTime|
11|COMPLETING|1792|NonZeroExitCode|
12|SOMETHING_NEW|0|None|
"""


def test_squeue() -> None:
    assert slurm.read_squeue("a banner\n" + SQUEUE) == {
        "4": JobState(State.CANCELLED, "CANCELLED", 143),
        "1": JobState(State.COMPLETED, "COMPLETED", 0),
        "9": JobState(State.COMPLETED, "COMPLETED", 0),
        "2": JobState(State.FAILED, "FAILED", 7, "NonZeroExitCode"),
        "3": JobState(State.FAILED, "FAILED", 143, "JobLaunchFailure"),
        "6": JobState(State.PENDING, "PENDING", None, "BeginTime"),
        "7": JobState(State.RUNNING, "RUNNING"),
        "8": JobState(State.TIMEOUT, "TIMEOUT", 143, "TimeLimit"),
        "10": JobState(State.CANCELLED, "CANCELLED", 0, "BeginTime"),
        "11": JobState(State.RUNNING, "COMPLETING", None, "NonZeroExitCode"),
        "12": JobState(State.UNKNOWN, "SOMETHING_NEW"),
    }


def test_a_core_dump_is_its_signal() -> None:
    assert slurm.read_squeue("1|FAILED|139|None|\n")["1"].code == 139  # 128 + 11, of which 128 is the dump's bit


def test_sacct() -> None:
    printed = "1|COMPLETED|0:0\n2|FAILED|7:0\n3|CANCELLED by 1000|0:15\n4|OUT_OF_MEMORY|0:125\n5|REQUEUED|0:0\n6|X|\n"
    assert slurm.read_sacct(printed) == {
        "1": JobState(State.COMPLETED, "COMPLETED", 0),
        "2": JobState(State.FAILED, "FAILED", 7),
        "3": JobState(State.CANCELLED, "CANCELLED", 143),
        "4": JobState(State.FAILED, "OUT_OF_MEMORY", 253),
        "5": JobState(State.PENDING, "REQUEUED"),
        "6": JobState(State.UNKNOWN, "X"),
    }


# After the manuals of OpenPBS; long values are broken, and go on behind a tab.
QSTAT = """Job Id: 12.pbs.domain
    Job_Name = ppo
    job_state = R
    queue = workq
    comment = Job run at Sat Nov 21 at 10:48 on (a:ncpus=4)+(b:ncpus=4)+(c:ncpus
\t=4)
    Resource_List.walltime = 01:00:00
    stime = Sat Nov 21 10:48:33 2026
    Variable_List = PBS_O_HOME=/home/me,A=1,
\tjob_state = Q,PBS_O_WORKDIR=/home/me

Job Id: 13.pbs.domain
    job_state = F
    Exit_status = 7
    substate = 93

Job Id: 14.pbs.domain
    job_state = F
    substate = 91
    Exit_status = 271

Job Id: 15.pbs.domain
    job_state = F
    Exit_status = -29

Job Id: 16.pbs.domain
    job_state = Q
    comment = Not Running: Insufficient amount of resource: ncpus

Job Id: 17.pbs.domain
    job_state = F
    substate = 91

Job Id: 18.pbs.domain
    job_state = F
    Exit_status = 0
    substate = 92

Job Id: 19.pbs.domain
    job_state = F
    Exit_status = 265

Job Id: 20.pbs.domain
    job_state = Z
"""


def test_qstat() -> None:
    states = SYSTEMS["pbs"].queries[0].read("a banner\n" + QSTAT)
    assert states.pop("12") == JobState(
        State.RUNNING, "R", None, "Job run at Sat Nov 21 at 10:48 on (a:ncpus=4)+(b:ncpus=4)+(c:ncpus=4)"
    )
    assert states == {
        "13": JobState(State.FAILED, "F", 7),
        "14": JobState(State.CANCELLED, "F", 143),
        "15": JobState(State.TIMEOUT, "F"),
        "16": JobState(State.PENDING, "Q", None, "Not Running: Insufficient amount of resource: ncpus"),
        "17": JobState(State.CANCELLED, "F"),
        "18": JobState(State.COMPLETED, "F", 0),
        "19": JobState(State.FAILED, "F", 137),
        "20": JobState(State.UNKNOWN, "Z"),
    }


def test_qstat_of_torque_and_of_slurms_stand_in() -> None:
    read = SYSTEMS["torque"].queries[0].read
    # From Torque's manual; and from Debian's slurm-wlm-torque 22.05, which tells no exit status.
    assert read("Job Id: 179.host\n    job_state = C\n    exit_status = -1\n") == {"179": JobState(State.FAILED, "C")}
    assert read("Job Id: 5.host\n    job_state = C\n    exit_status = -11\n") == {"5": JobState(State.TIMEOUT, "C")}
    assert read("Job Id:\t10\n\tJob_Name = name\n\tjob_state = C\n") == {"10": JobState(State.ENDED, "C")}


def test_bjobs() -> None:
    printed = """1|PEND|-|-
2|RUN|-|-
3|DONE|-|-
4|EXIT|7|-
5|EXIT|140|TERM_RUNLIMIT: job killed after reaching LSF run time limit
6|EXIT|-|TERM_OWNER: job killed by owner
7|ZOMBI|-|-
"""
    assert lsf.read_bjobs(printed) == {
        "1": JobState(State.PENDING, "PEND"),
        "2": JobState(State.RUNNING, "RUN"),
        "3": JobState(State.COMPLETED, "DONE"),
        "4": JobState(State.FAILED, "EXIT", 7),
        "5": JobState(State.TIMEOUT, "EXIT", 140, "TERM_RUNLIMIT: job killed after reaching LSF run time limit"),
        "6": JobState(State.CANCELLED, "EXIT", None, "TERM_OWNER: job killed by owner"),
        "7": JobState(State.UNKNOWN, "ZOMBI"),
    }


def test_qstat_of_cobalt() -> None:
    printed = "JobID   State      \n===================\n123     running    \n124     user_hold  \n125     odd\n"
    assert cobalt.read_qstat(printed) == {
        "123": JobState(State.RUNNING, "running"),
        "124": JobState(State.PENDING, "user_hold"),
        "125": JobState(State.UNKNOWN, "odd"),
    }


# Of Grid Engine 8.1.9, shortened: the one before the last was started again, the newest record is the first.
QSTAT_XML = """<job_list state="running">
      <JB_job_number>1</JB_job_number>
      <JB_name>rayhpc</JB_name>
      <state>Rr</state>
    </job_list>
    <job_list state="pending">
      <JB_job_number>2</JB_job_number>
      <state>qw</state>
    </job_list>
    <job_list><JB_job_number>3</JB_job_number><state>dr</state></job_list>
    <job_list><JB_job_number>4</JB_job_number><state>Eqw</state></job_list>
"""
QACCT = """==============================================================
jobname      rayhpc
jobnumber    1
failed       0
exit_status  1
==============================================================
jobnumber    1
failed       25  : rescheduling
exit_status  99
==============================================================
jobnumber    1
failed       100 : assumedly after job
exit_status  137                  (Killed)
==============================================================
jobnumber    2
failed       37  : qmaster enforced h_rt, h_cpu, or h_vmem limit
exit_status  137                  (Killed)
==============================================================
jobnumber    3
granted_pe   mpi
failed       0
exit_status  0
==============================================================
jobnumber    3
granted_pe   mpi
failed       0
exit_status  7
==============================================================
jobnumber    3
granted_pe   mpi
failed       0
exit_status  0
==============================================================
jobnumber    4
granted_pe   NONE
failed       0
exit_status  0
==============================================================
jobnumber    6
granted_pe   mpi
failed       0
exit_status  0
==============================================================
jobnumber    5
failed       26  : opening input/output file
exit_status  0
Total System Usage
    WALLCLOCK         UTIME
"""


def test_flux_jobs() -> None:
    printed = """1|SCHED||
2|RUN||
3|INACTIVE|COMPLETED|0
4|INACTIVE|FAILED|7
5|INACTIVE|CANCELED|-15
6|INACTIVE|TIMEOUT|-14
7|INACTIVE|CANCELED|
8|ODD||
"""
    assert flux.read_jobs("a banner\n" + printed) == {
        "1": JobState(State.PENDING, "SCHED"),
        "2": JobState(State.RUNNING, "RUN"),
        "3": JobState(State.COMPLETED, "COMPLETED", 0),
        "4": JobState(State.FAILED, "FAILED", 7),
        "5": JobState(State.CANCELLED, "CANCELED", 143),
        "6": JobState(State.TIMEOUT, "TIMEOUT", 142),
        "7": JobState(State.CANCELLED, "CANCELED"),
        "8": JobState(State.UNKNOWN, "ODD"),
    }


def test_qstat_and_qacct_of_grid_engine() -> None:
    assert sge.read_qstat(QSTAT_XML) == {
        "1": JobState(State.RUNNING, "Rr"),
        "2": JobState(State.PENDING, "qw"),
        "3": JobState(State.RUNNING, "dr"),
        "4": JobState(State.PENDING, "Eqw"),
    }
    assert sge.read_qacct(QACCT) == {
        "1": JobState(State.CANCELLED, "100", 137, "assumedly after job"),
        "2": JobState(State.TIMEOUT, "37", 137, "qmaster enforced h_rt, h_cpu, or h_vmem limit"),
        "3": JobState(State.FAILED, "0", 7),
        "4": JobState(State.COMPLETED, "0", 0),
        "5": JobState(State.FAILED, "26", None, "opening input/output file"),
        "6": JobState(State.ENDED, "0"),
    }


queries = pytest.mark.parametrize(
    "read", [query.read for system in SYSTEMS.values() for query in system.queries], ids=str
)
RECORDED = (SQUEUE, QSTAT, QSTAT_XML, QACCT, "1|DONE|-|-\n", "123 running\n", "1|COMPLETED|0:0\n")


@queries
@given(text=st.text() | st.lists(st.sampled_from(RECORDED) | st.text(max_size=30)).map("".join))
def test_any_text_gives_states(read: Any, text: str) -> None:
    for job_id, state in read(text).items():
        assert "\n" not in job_id
        assert isinstance(state, JobState)
        assert (state.state is State.UNKNOWN) == (state.exit_code is None and not state.ended and not _live(state))
        assert state.ended or state.code is None


def _live(state: JobState) -> bool:
    return state.state in (State.PENDING, State.RUNNING)


@given(word=st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ_", min_size=9))
def test_a_word_that_nobody_knows_is_kept(word: str) -> None:
    # Nine letters: none of the words of the tables.
    for state in (
        slurm.read_squeue(f"1|{word}{word}|0|None|")["1"],
        slurm.read_sacct(f"1|{word}{word}|0:0")["1"],
        lsf.read_bjobs(f"1|{word}{word}|-|-")["1"],
        cobalt.read_qstat(f"1 {word}{word}")["1"],
        SYSTEMS["pbs"].queries[0].read(f"Job Id: 1.x\n    job_state = {word}{word}\n")["1"],
    ):
        assert (state.state, state.word, state.exit_code) == (State.UNKNOWN, word + word, None)


@given(st.builds(JobState, st.sampled_from(State), st.text(), st.none() | st.integers(0, 255), st.text()))
def test_only_a_completed_job_ends_with_0(state: JobState) -> None:
    assert state.exit_code != 0 or state.state is State.COMPLETED


# ------------------------------------------------------------------------------------------------------- deadlines


NOW = 1_795_258_350.0


def local(text: str) -> float:
    return time.mktime(time.strptime(text, "%Y-%m-%d %H:%M:%S"))


def test_the_end_of_a_job_by_scontrol() -> None:
    printed = (
        "JobId=11 JobName=EndTime=x JobState=RUNNING TimeLimit=01:00:00 StartTime=2026-11-21T10:52:30 "
        "EndTime=2026-11-21T11:52:30 Deadline=N/A SuspendTime=None"
    )
    assert slurm.parse_deadline(printed, NOW) == local("2026-11-21 11:52:30")
    assert slurm.parse_deadline(printed.replace("2026-11-21T11:52:30", "Unknown"), NOW) == math.inf
    assert slurm.parse_deadline("slurm_load_jobs error", NOW) is None


def test_the_end_of_a_job_by_qstat() -> None:
    assert pbs.parse_deadline(QSTAT, NOW) == local("2026-11-21 11:48:33")
    torque = "Job Id: 1.x\n    start_time = Sat Nov 21 10:00:00 2026\n    Resource_List.walltime = 00:30:00\n"
    assert pbs.parse_deadline(torque, NOW) == local("2026-11-21 10:30:00")
    assert pbs.parse_deadline(torque + "    Walltime.Remaining = 90\n", NOW) == NOW + 90
    assert pbs.parse_deadline("Job Id: 1.x\n    job_state = Q\n", NOW) is None


@pytest.mark.parametrize(
    ("printed", "left"), [("1:30 L\n", 5400), ("0:05\n", 300), ("0:1 L\n", 60), ("-\n", math.inf), ("", None)]
)
def test_the_end_of_a_job_by_bjobs(printed: str, left: int | None) -> None:
    assert lsf.parse_deadline(printed, NOW) == (None if left is None else NOW + left)


@pytest.mark.parametrize("start", ["1795258000", "1795258000000", "2026-11-21T10:46:40"])
def test_the_end_of_a_job_of_grid_engine(start: str) -> None:
    began = local("2026-11-21 10:46:40") if "T" in start else 1795258000.0
    limit = "<CE_name>h_rt</CE_name>\n<CE_stringval>600</CE_stringval>\n<CE_doubleval>600.000000</CE_doubleval>"
    printed = f"{limit}<JAT_start_time>{start}</JAT_start_time>"
    assert sge.parse_deadline(printed, NOW) == began + 600
    assert sge.parse_deadline(printed.replace("h_rt", "h_vmem"), NOW) is None


@pytest.mark.parametrize(("printed", "left"), [("3542\n", 3542), ("4294967295\n", math.inf), ("0\n", 0), ("", None)])
def test_the_end_of_a_job_by_flux(printed: str, left: float | None) -> None:
    assert flux.parse_deadline(printed, NOW) == (None if left is None else NOW + left)


def test_the_end_of_a_job_by_cobalt() -> None:
    assert cobalt.parse_deadline("JobID  TimeRemaining\n======\n12 00:10:00\n", NOW) == NOW + 600
    assert cobalt.parse_deadline("JobID  TimeRemaining\n======\n12 N/A\n", NOW) is None


@pytest.mark.parametrize("scheduler", schedulers.ALL, ids=lambda scheduler: scheduler.name)
@given(text=st.text() | st.sampled_from([QSTAT, "EndTime=9999999-01-01T00:00:00", "99:99 L", "1 9999999:00:00"]))
@example(text="StartTime=x EndTime=0001-01-01T00:00:00")
@example(text="Job Id: 1\n stime = Sat Nov 21 10:48:33 9999\n Resource_List.walltime = 1\n")
def test_any_text_gives_an_end_or_none(scheduler: Scheduler, text: str) -> None:
    end = scheduler.parse_deadline(text, NOW)
    assert end is None or isinstance(end, float)


@pytest.mark.parametrize(
    ("name", "environ", "end"),
    [
        ("slurm", {"SLURM_JOB_END_TIME": "1795258350"}, NOW),
        ("slurm", {"SLURM_JOB_END_TIME": "soon"}, None),
        ("slurm", {}, None),
        ("cobalt", {"COBALT_ENDTIME": "1795258350"}, NOW),
        ("pbs", {"PBS_WALLTIME": "3600"}, None),  # how long, but not since when
    ],
)
def test_the_end_of_a_job_by_its_environment(name: str, environ: dict[str, str], end: float | None) -> None:
    scheduler = next(entry for entry in schedulers.ALL if entry.name == name)
    assert scheduler.deadline(environ) == end


# ------------------------------------------------------------------------------------------------ inside of a job


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({"SLURM_JOB_ID": "1"}, "slurm"),
        ({"PBS_JOBID": "1.x"}, "pbs"),
        ({"COBALT_JOBID": "1", "PBS_JOBID": "1"}, "cobalt"),
        ({"LSB_JOBID": "1"}, "lsf"),
        ({"JOB_ID": "1", "SGE_TASK_ID": "undefined"}, "sge"),
        ({"FLUX_JOB_ID": "f1"}, "flux"),
        ({"JOB_ID": "1"}, None),  # a name that others use too
        ({"HOME": "/"}, None),
    ],
)
def test_whose_job_this_is(environ: dict[str, str], name: str | None) -> None:
    found = schedulers.detect(environ)
    assert (found.name if found else None) == name


@given(st.dictionaries(st.sampled_from(
    ["SLURM_CPUS_ON_NODE", "SLURM_MEM_PER_NODE", "SLURM_MEM_PER_CPU", "SLURM_JOB_END_TIME", "NCPUS", "PBS_NUM_PPN",
     "COBALT_ENDTIME", "LSB_MCPU_HOSTS"]), st.text() | st.integers().map(str)))  # fmt: skip
def test_no_environment_is_an_error(environ: dict[str, str]) -> None:
    for scheduler in schedulers.ALL:
        for said in (scheduler.cpus(environ), scheduler.memory(environ), scheduler.deadline(environ)):
            assert said is None or said >= 0


@pytest.mark.parametrize(
    ("hosts", "names"),
    [
        ("", []),
        ("login", ["login"]),
        ("node[1-3]", ["node1", "node2", "node3"]),
        ("cn[08-10,12],gpu1", ["cn08", "cn09", "cn10", "cn12", "gpu1"]),
        ("cn[1-2]-r[01-02]", ["cn1-r01", "cn1-r02", "cn2-r01", "cn2-r02"]),
    ],
)
def test_slurms_lists_of_hosts(hosts: str, names: list[str]) -> None:
    assert slurm.expanded(hosts) == names


@given(st.text(alphabet="cn[]-,019x") | st.just("a[0-999999999]"))
def test_any_list_of_hosts_has_an_end(hosts: str) -> None:
    assert all(isinstance(name, str) for name in slurm.expanded(hosts))


SIZES = {"SLURM_JOB_NODELIST": "cn[1-3],big", "SLURM_JOB_CPUS_PER_NODE": "4(x2),2,16", "SLURM_CPUS_ON_NODE": "4"}


@pytest.mark.parametrize(
    ("host", "environ", "cpus"),
    [
        ("cn1", {}, 4),
        ("cn3", {}, 2),
        ("big.site.org", {}, 16),  # mpiexec has brought the environment of the first host
        ("big", {"SLURMD_NODENAME": "cn1"}, 16),
        ("big", {"SLURMD_NODENAME": "big", "SLURM_CPUS_ON_NODE": "8"}, 8),  # srun: the step's
        ("elsewhere", {}, 4),
    ],
)
def test_each_host_has_its_own_cpus_on_slurm(
    monkeypatch: pytest.MonkeyPatch, host: str, environ: dict[str, str], cpus: int
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: host)
    assert schedulers.SLURM.cpus({**SIZES, **environ}) == cpus


def test_a_job_that_has_its_hosts_alone_may_use_more_than_its_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "a")
    slots = {"LSB_MCPU_HOSTS": "a 1 b 2"}
    assert schedulers.LSF.cpus(slots) == 1
    assert schedulers.LSF.cpus({**slots, "LSB_EXCLUSIVE": "Y"}) is None


def test_the_slots_of_grid_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "a.site")
    (tmp_path / "pe").write_text("a 4 main.q@a UNDEFINED\nb 2 main.q@b UNDEFINED\n")
    assert schedulers.SGE.cpus({"PE_HOSTFILE": str(tmp_path / "pe")}) == 4
    assert schedulers.SGE.cpus({"NHOSTS": "1", "NSLOTS": "3"}) == 3
    assert schedulers.SGE.cpus({"NHOSTS": "2", "NSLOTS": "3"}) is None


@pytest.mark.parametrize(
    ("exec_host", "cpus"),
    [
        ("node1/0*2+node2/0*8", {"node1": 2, "node2": 8}),
        ("node1/0+node2/1*4", {"node1": 1, "node2": 4}),
        ("node1/0*2+node1/1*2", {"node1": 4}),  # two chunks on one host
        ("node1/0-3+node2/0,2", {"node1": 4, "node2": 2}),  # Torque
        ("node1.site/3+node1.site/2", {"node1": 2}),
        ("", {}),
    ],
)
def test_each_host_has_its_own_cpus_on_pbs(exec_host: str, cpus: dict[str, int]) -> None:
    assert pbs.parse_cpus(f"Job Id: 7.x\n    job_state = R\n    exec_host = {exec_host}\n") == cpus


def test_the_hosts_of_a_job(tmp_path: Path) -> None:
    (tmp_path / "nodes").write_text("a\na\nb\n")
    het = {"SLURM_HET_SIZE": "2", "SLURM_JOB_NODELIST_HET_GROUP_0": "n1", "SLURM_JOB_NODELIST_HET_GROUP_1": "n[2-3]"}
    assert schedulers.PBS.hosts({"PBS_NODEFILE": str(tmp_path / "nodes")}) == ["a", "b"]
    assert schedulers.PBS.hosts({"PBS_NODEFILE": str(tmp_path / "gone")}) == []
    assert schedulers.COBALT.hosts({"COBALT_NODEFILE": str(tmp_path / "nodes")}) == ["a", "b"]
    assert schedulers.LSF.hosts({"LSB_MCPU_HOSTS": "a 2 b 2"}) == ["a", "b"]
    (tmp_path / "pe").write_text("a.site 4 main.q@a UNDEFINED\nb 2 main.q@b UNDEFINED\na.site 1 other.q@a UNDEFINED\n")
    assert schedulers.SGE.hosts({"PE_HOSTFILE": str(tmp_path / "pe")}) == ["a", "b"]
    assert schedulers.SLURM.hosts(SIZES) == ["cn1", "cn2", "cn3", "big"]
    assert schedulers.SLURM.hosts({**het, "SLURM_JOB_NODELIST": "n1"}) == ["n1", "n2", "n3"]


def test_small_words() -> None:
    ids = ["123.server.domain", "123", "123[].x", "123;beta", "123_4", "123[4].x", "123[4]", "name"]
    assert [short(job_id) for job_id in ids] == ["123", "123", "123", "123", "123_4", "123_4", "123_4", "name"]
    assert [job_of(job_id) for job_id in ids] == ["123"] * 7 + ["name"]
    assert [task_of(job_id) for job_id in ids] == [""] * 4 + ["4"] * 3 + [""]
    assert [cluster_of(job_id) for job_id in ids] == ["", "", "", "beta", "", "", "", ""]
    assert (number("12"), number(""), number("-1"), number("²"), number("9" * 30)) == (12, None, None, None, None)
    assert last_match("a(.)", "ab\nac d ae") == "e"
    assert last_match("a(.)", "") is None
