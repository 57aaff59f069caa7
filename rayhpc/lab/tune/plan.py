"""From a configuration with tunables to a sweep over `rayhpc lab train`."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from rayhpc import units
from rayhpc.lab.algorithms import default_config
from rayhpc.lab.check import SEARCHED as GROUP
from rayhpc.lab.compose import Source, compose
from rayhpc.lab.old_names import present_name, renamed
from rayhpc.lab.own_groups import Run, Tune
from rayhpc.lab.schema import schema_of
from rayhpc.lab.settings import AUTO, Settings, read, unfolded
from rayhpc.lab.train import plan_of
from rayhpc.lab.tunables import found
from rayhpc.lab.tune.spaces import SEED, in_hydra, parameters, typical
from rayhpc.rllib.cluster import check_reachable
from rayhpc.rllib.errors import UsageError
from rayhpc.sweep import plan
from rayhpc.sweep.plan import Parameter, Resources, Sweep

RUNNERS = "env_runners.num_env_runners"
TRAIN = ("-m", "rayhpc.lab", "train")


def sweep_of(source: Source) -> Sweep:
    """The sweep that a configuration asks for; UsageError for all that can be known to be wrong without Ray."""
    plain, _ = renamed(unfolded(compose(source)))
    tunables = found(plain.get(GROUP) or {})
    if not tunables:
        read(source)  # says which group is misspelt
        raise UsageError(
            "there are no tunables: name what varies, such as"
            " tunables.training.lr='{type: loguniform, values: [1e-5, 1e-2]}'"
        )
    space = parameters(tunables, schema_of(type(default_config(plain.get("algo")))))
    settings = _tried(source, space)
    tune = settings.tune
    _check_run(settings.run)
    runners, cpus = _runners_and_cpus(settings, space)
    command = (sys.executable, *TRAIN, *_words(source, settings, space, runners))
    grid = all(each.kind == "grid" for each in space)
    search = tune.search or ("grid" if grid else "random")
    name = tune.name or re.sub(r"[^A-Za-z0-9._-]+", "-", settings.environment.name).strip(".-_")[:64]
    if not plan.NAME.fullmatch(name):
        raise UsageError(f"tune.name={name}: at most 64 letters, digits, dots and dashes are wanted")
    wanted = Sweep(
        name=name,
        directory=str(Path.cwd()),
        command=command,
        space=space,
        metric=tune.metric,
        mode=tune.mode,
        samples=plan.grid_size(space) if search == "grid" else tune.samples,
        repeat=tune.repeat,
        search=search,
        scheduler=tune.scheduler,
        seed=settings.config.seed or 0,
        resources=Resources(cpus, tune.gpus, _memory(tune)),
        concurrent=tune.concurrent,
        stall=tune.stall,
        max_failures=tune.max_failures,
        # With more threads sums come out otherwise, and a training would not be reproduced elsewhere.
        program=1 + len(TRAIN),
        environment={"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")},
    )
    if wrong := plan.contradictions(wanted):
        raise UsageError("\n  ".join(f"tune: {problem}" for problem in wrong))
    return wanted


def _tried(source: Source, space: Sequence[Parameter]) -> Settings:
    """The settings of a training in the middle of the space; UsageError where RLlib refuses them."""
    values = [f"{each.name}={plan.text(typical(each))}" for each in space]
    settings = read(replace(source, overrides=(*source.overrides, *values)))
    try:
        plan_of(settings)
    except UsageError as problem:
        raise UsageError(f"{problem} (tried with {' '.join(values)})") from problem
    return settings


def _check_run(run: Run) -> None:
    """UsageError for what all trials would do at the same place, and for a cluster where nobody listens."""
    if run.output is not None or run.overwrite:
        raise UsageError("run.output, run.overwrite: each trial has a directory of its own: leave them out")
    check_reachable(os.environ.get("RAY_ADDRESS", ""))


def _memory(tune: Tune) -> int:
    try:
        return tune.memory if isinstance(tune.memory, int) else units.size(tune.memory)
    except ValueError as problem:
        raise UsageError(f"tune.memory={tune.memory}: {problem}") from problem


def _runners_and_cpus(settings: Settings, space: Sequence[Parameter]) -> tuple[int | None, int]:
    """Env runners of each trial, None where they vary, and its CPUs; UsageError where those are too few for these."""
    config, asked = settings.config, settings.tune.cpus
    if config.num_learners:
        raise UsageError(f"learners.num_learners={config.num_learners}: a trial learns in one process: leave it out")
    others = config.evaluation_num_env_runners or int(bool(config.evaluation_interval))
    varied = [max(each.values) for each in space if each.name == RUNNERS]
    if settings.auto and not varied:
        cpus = asked or 1
        return max(0, cpus - 1 - (others if cpus > others + 1 else 0)), cpus
    most = int(varied[0] if varied else config.num_env_runners)
    cpus = asked or most + others + 1
    if cpus < most + others:
        raise UsageError(f"tune.cpus={cpus}: {most} env runners and {others} of the evaluation take one CPU each")
    return (None if varied else most), cpus


def _words(source: Source, settings: Settings, space: Sequence[Parameter], runners: int | None) -> Iterator[str]:
    """The words of a training that no trial varies, in the order in which they were given."""
    if source.config_dir is not None:
        yield from ("--config-dir", source.config_dir)
    if source.config_name is not None:
        yield from ("--config-name", source.config_name)
    automatic = settings.auto and runners is not None
    replaced = {each.name for each in space} | {SEED} | ({RUNNERS} if automatic else set())
    for word in source.overrides:
        key, _, value = word.lstrip("+~").partition("=")
        ours = key.partition(".")[0] in (GROUP, "tune") or present_name(key) in replaced
        if not ours and not (automatic and key == "env_runners" and value == AUTO):
            yield word
    if automatic:
        yield _fixed(source, runners or 0)
    yield f"{SEED}={{{plan.SEED}}}"


def _fixed(source: Source, runners: int) -> str:
    """How many env runners there are, where the configuration leaves it to the cluster: the same number anywhere."""
    whole = source.config_dir is not None and compose(source).get("env_runners") == AUTO
    return f"env_runners={in_hydra({'num_env_runners': runners})}" if whole else f"{RUNNERS}={runners}"
