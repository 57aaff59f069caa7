"""Everything that is parsed, fed with anything: a value, or an error of ours; and what was printed is read back."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rayhpc import schedulers, units
from rayhpc.batch import allocations
from rayhpc.errors import ExitCode, RayhpcError
from rayhpc.host import gpu_variables, gpus, this_host
from rayhpc.launch.command_line import parse
from rayhpc.options import Options
from rayhpc.ranks import launcher
from rayhpc.schedulers import SYSTEMS, cobalt, lsf, pbs, slurm
from rayhpc.schedulers.facts import State, clock

OPTIONS = {f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(Options)}
# An environment's values hold no NUL; the file system's bytes that are no UTF-8 are surrogates.
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=24)
numbers = (
    st.integers(-(10**20), 10**20).map(str) | st.floats().map(str) | st.sampled_from(["²", "१", "1_0", "0x1", "+1"])
)
values = texts | numbers | st.lists(texts | numbers, max_size=4).map(",".join)
names = st.from_regex(r"[a-z][a-z0-9-]{0,12}(\.[a-z0-9]{1,8}){0,2}", fullmatch=True)
job_ids = st.integers(1, 10**9).map(str)


def understood(words: list[str]) -> Options | None:
    """What the command line makes of the words; None where it refuses them as it should, or prints its help."""
    try:
        return parse(words)[0]
    except RayhpcError as error:
        assert error.fault.code == ExitCode.USAGE
        assert error.fault.what
        return None
    except click.exceptions.Exit:
        return None


# The command line.


@given(st.lists(st.sampled_from(sorted(OPTIONS)) | values, max_size=5))
def test_any_words_are_options_or_refused(words: list[str]) -> None:
    understood([*words, "x.py"])


@given(st.sampled_from(sorted(OPTIONS)), values)
@example("--interface", "10.0.0.0/-1")
@example("--interface", "::/129")
@example("--walltime", "1-" + "9" * 400)
@example("--walltime", "9" * 400 + "-1")
@example("--walltime", "9" * 5000)
@example("--memory", "9" * 18 + "T")
@example("--labels", "a=" + "b" * 64)
def test_any_value_of_any_option_is_used_or_refused(option: str, value: str) -> None:
    options = understood([f"{option}={value}", "x.py"])
    if options is None:
        return
    for field in dataclasses.fields(options):
        chosen = getattr(options, field.name)
        assert not isinstance(chosen, float) or math.isfinite(chosen)
        assert chosen == field.default or not isinstance(chosen, int | float) or chosen >= 0
    assert not options.walltime or units.seconds(options.walltime) >= 0
    if options.interface:
        this_host.interfaces(options.interface)


@given(st.sampled_from(sorted(OPTIONS)), values)
def test_any_value_of_any_variable_is_used_or_refused(option: str, value: str) -> None:
    name = f"RAYHPC_{option[2:].replace('-', '_').upper()}"
    before = dict(os.environ)
    try:
        os.environ[name] = value
        understood(["x.py"])
    finally:
        os.environ.clear()
        os.environ.update(before)


# Walltimes.


@given(st.integers(0, 10**7))
def test_a_walltime_that_is_written_is_read_back(seconds: int) -> None:
    days, rest = divmod(seconds, 86400)
    assert units.seconds(clock(seconds)) == seconds
    assert units.seconds(f"{days}-{clock(rest)}") == seconds
    assert units.seconds(str(seconds)) == seconds


# GPU lists.


@given(st.lists(st.from_regex(r"[0-9]{1,2}|GPU-[0-9a-f]{8}|MIG-GPU-[0-9a-f]{4}/[0-9]/0|[0-9]\.[0-9]", fullmatch=True)))
@pytest.mark.parametrize("variable", ["CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ZE_AFFINITY_MASK"])
def test_a_list_of_gpus_is_read_back(variable: str, ids: list[str]) -> None:
    found = gpus.find({variable: " , ".join(ids)})
    assert (found.variable, found.ids) == (variable, tuple(ids))


VENDORS = (
    "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK", "ONEAPI_DEVICE_SELECTOR",
)  # fmt: skip
GRANTS = ("SLURM_GPUS_PER_TASK", "SLURM_STEP_GPUS", "SLURM_GPUS_ON_NODE", "SLURM_LOCALID")


@given(st.dictionaries(st.sampled_from([*VENDORS, *GRANTS]), values))
@example({"HIP_VISIBLE_DEVICES": "²", "ROCR_VISIBLE_DEVICES": "0,1,2"})
@example({"HIP_VISIBLE_DEVICES": "9" * 5000, "ROCR_VISIBLE_DEVICES": "0"})
def test_any_list_of_gpus_is_a_list_of_gpus(environ: dict[str, str]) -> None:
    found = gpus.find(environ)
    assert all(name and name == name.strip() and "," not in name for name in found.ids)
    assert len(found.devices) in (0, len(found.ids))
    mended = {**environ, **gpu_variables.for_ray(environ)}
    assert "HIP_VISIBLE_DEVICES" in mended or "ROCR_VISIBLE_DEVICES" not in mended
    assert {**mended, **gpu_variables.for_ray(mended)} == mended


# What launchers and schedulers put into the environment.

LAUNCHERS = [name for entry in launcher._LAUNCHERS for name in entry[1:] if name]
SCHEDULERS = ["SLURM_CPUS_ON_NODE", "SLURM_MEM_PER_NODE", "SLURM_MEM_PER_CPU", "SLURM_JOB_END_TIME", "NCPUS"]
SCHEDULERS += ["PBS_NUM_PPN", "LSB_MCPU_HOSTS", "COBALT_ENDTIME"]


@given(st.dictionaries(st.sampled_from(LAUNCHERS), values))
def test_any_launchers_variables_are_a_launch_or_none(environ: dict[str, str]) -> None:
    start = launcher.launched(environ)
    if start is not None:
        assert start.by
        assert all(number is None or number >= 0 for number in (start.rank, start.size))


@given(st.dictionaries(st.sampled_from(SCHEDULERS), values))
def test_any_schedulers_variables_are_figures_or_nothing(environ: dict[str, str]) -> None:
    for scheduler in schedulers.ALL:
        for figure in (scheduler.cpus(environ), scheduler.memory(environ), scheduler.deadline(environ)):
            assert figure is None or figure >= 0


@given(st.dictionaries(names.map(lambda name: name.partition(".")[0]), st.integers(1, 10**6)), st.integers(1, 10**6))
def test_a_list_of_hosts_is_read_back(slots: dict[str, int], own: int) -> None:
    """LSB_MCPU_HOSTS: the slots of this host among those of others."""
    here = socket.gethostname()
    listed = {**slots, here: own}
    assert schedulers.LSF.cpus({"LSB_MCPU_HOSTS": " ".join(f"{name} {n}" for name, n in listed.items())}) == own


# Nodefiles: the jobscripts read them, with a line of awk.

NODEFILE_PROGRAMS = {
    script.name: re.findall(r"awk '([^']+)' \"\$(?:PBS_NODEFILE|nodefile)\"", script.read_text())
    for script in Path(__file__).parents[2].joinpath("jobscripts").glob("*.pbs")
}


@pytest.mark.parametrize("script", NODEFILE_PROGRAMS)
@settings(max_examples=15)
@given(hosts=st.lists(names, min_size=1, max_size=30))
def test_a_nodefile_is_its_hosts_once_in_their_order(script: str, hosts: list[str]) -> None:
    (program,) = NODEFILE_PROGRAMS[script]
    text = "".join(f"{name}\n" for name in hosts)
    done = subprocess.run(["awk", program], input=text, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n") == [*dict.fromkeys(hosts), ""]


# What the schedulers' commands print.

reasons = st.from_regex(r"[A-Za-z][A-Za-z ,()-]{0,20}[a-z)]", fullmatch=True).filter(lambda text: text != "None")


@given(st.dictionaries(job_ids, st.tuples(st.sampled_from(sorted(slurm._STATES)), st.integers(0, 255), reasons)))
def test_squeue_and_sacct_are_read_back(jobs: dict[str, tuple[str, int, str]]) -> None:
    squeue = slurm.read_squeue("".join(f"{i}|{word}|{code << 8}|{why}|\n" for i, (word, code, why) in jobs.items()))
    sacct = slurm.read_sacct("".join(f"{i}|{word}|{code}:0\n" for i, (word, code, _) in jobs.items()))
    assert squeue.keys() == sacct.keys() == jobs.keys()
    for job, (word, code, why) in jobs.items():
        assert (squeue[job].word, sacct[job].word, squeue[job].why) == (word, word, why)
        if squeue[job].ended:
            assert squeue[job].code == sacct[job].code == code


@given(st.dictionaries(job_ids, st.tuples(st.sampled_from(sorted(lsf._STATES)), st.integers(0, 255), reasons)))
def test_bjobs_is_read_back(jobs: dict[str, tuple[str, int, str]]) -> None:
    found = lsf.read_bjobs("".join(f"{job}|{word}|{code}|{why}\n" for job, (word, code, why) in jobs.items()))
    assert {job: (state.word, state.why) for job, state in found.items()} == {
        job: (word, why) for job, (word, _, why) in jobs.items()
    }


@given(st.dictionaries(job_ids, st.sampled_from(sorted(cobalt._STATES))))
def test_cobalts_qstat_is_read_back(jobs: dict[str, str]) -> None:
    table = "JobID  State\n=====  =====\n" + "".join(f"{job}  {word}\n" for job, word in jobs.items())
    assert {job: state.word for job, state in cobalt.read_qstat(table).items()} == jobs


def folded(name: str, value: str, width: int) -> str:
    """A line of `qstat -f`: long values go on behind a tab."""
    line = f"    {name} = {value}"
    return line[:width] + "".join(f"\n\t{line[at : at + width]}" for at in range(width, len(line), width)) + "\n"


long_words = st.from_regex(r"[a-z/,=:.0-9]{1,300}", fullmatch=True)


@given(st.dictionaries(job_ids, st.tuples(st.sampled_from("QRHEBSFXC"), long_words)), st.integers(40, 90))
def test_qstat_is_read_back(jobs: dict[str, tuple[str, str]], width: int) -> None:
    text = "".join(
        f"Job Id: {job}.server\n" + folded("job_state", word, width) + folded("comment", why, width) + "\n"
        for job, (word, why) in jobs.items()
    )
    for system in (SYSTEMS["pbs"], SYSTEMS["torque"]):
        found = system.queries[0].read(text)
        assert {job: (state.word, state.why) for job, state in found.items()} == jobs


@given(texts | st.lists(texts, max_size=4).map("\n".join), st.sampled_from(schedulers.ALL))
@example("StartTime=x EndTime=9999-99-99T99:99:99", slurm.SLURM)
@example("    Walltime.Remaining = " + "9" * 18, pbs.PBS)
@example(f"1 {'9' * 400}:00:00", cobalt.COBALT)
def test_any_answer_about_the_end_of_the_job_is_a_time_or_none(text: str, scheduler: Any) -> None:
    end = scheduler.parse_deadline(f"Job Id: 1\n{text}", 1.8e9)
    assert end is None or math.isfinite(end)


@given(st.integers(10**9, 4 * 10**9))
def test_an_end_of_the_job_is_read_back(end: int) -> None:
    printed = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(end))
    found = slurm.parse_deadline(f"JobId=1 StartTime=x EndTime={printed} Deadline=N/A", 0.0)
    assert found in (end - 3600, end, end + 3600)  # an hour is there twice when summer ends


# Our own records, as somebody else may have left them.

plain = st.recursive(st.none() | st.booleans() | st.integers() | texts, lambda inner: st.lists(inner, max_size=3))
FIELDS = [field.name for field in dataclasses.fields(allocations.Allocation)]


@given(st.dictionaries(st.sampled_from(FIELDS), plain | st.dictionaries(texts, plain, max_size=2)) | plain)
@example(dict.fromkeys(FIELDS) | {"ended": {"state": "COMPLETED", "oops": 1}})
@example(dict.fromkeys(FIELDS, "slurm") | {"ended": {"state": State.COMPLETED.name}})
def test_any_record_is_an_allocation_or_none(tmp_path_factory: pytest.TempPathFactory, content: Any) -> None:
    directory = tmp_path_factory.getbasetemp() / "record"
    directory.mkdir(exist_ok=True)
    (directory / allocations._RECORD).write_text(json.dumps(content))
    found = allocations._read(directory)
    assert found is None or found.scheduler in SYSTEMS
