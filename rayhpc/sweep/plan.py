"""What a sweep is, as sweep.yaml says it: the program, what varies, what each trial needs."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import NormalDist
from typing import Any

KINDS = ("uniform", "loguniform", "randint", "normal", "choice", "grid")
SEARCHES = ("random", "grid", "optuna")
SCHEDULERS = ("none", "asha", "median")
PLACEMENTS = ("any", "host", "all different")
READERS = ("jsonl", "tensorboard", "csv")
SEED = "seed"
# What may be the name of a sweep, which is a directory too.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_PAIRS = {"uniform", "loguniform", "randint", "normal"}


@dataclass(frozen=True)
class Parameter:
    """One parameter of the space. values: the two bounds, mean and deviation of a normal one, or the choices."""

    name: str
    kind: str
    values: tuple[Any, ...]

    def suggest(self, trial: Any) -> Any:
        """A value from an Optuna trial."""
        if self.kind in ("choice", "grid"):
            return trial.suggest_categorical(self.name, list(self.values))
        low, high = self.values
        if self.kind == "randint":
            return trial.suggest_int(self.name, low, high)
        if self.kind == "normal":
            share = trial.suggest_float(f"{self.name}:quantile", 1e-6, 1 - 1e-6)
            return NormalDist(low, high).inv_cdf(share)
        return trial.suggest_float(self.name, low, high, log=self.kind == "loguniform")


@dataclass(frozen=True)
class Resources:
    """What one process of a trial needs; memory in bytes."""

    cpus: float = 1
    gpus: float = 0
    memory: int = 0


@dataclass(frozen=True)
class Reader:
    """Where a program that cannot be changed writes its metrics: kind, and the file or glob below its directory."""

    kind: str = "jsonl"
    path: str = ""


@dataclass(frozen=True)
class Sweep:
    """A whole sweep. command: the arguments of each trial; tasks: named commands instead, without a space.

    repeat: trials of each sample, which differ in {seed}; stall: seconds without output or report after which a trial
    is ended, 0 for never; max_failures: how often a trial that fails is started again; processes: of one trial;
    concurrent: all trials start together or none; environment: may hold secrets, so no record has it; program: how many
    words of the command are the program, where those behind them reproduce a trial; 0: its values do.
    """

    name: str
    directory: str
    command: tuple[str, ...] = ()
    tasks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    space: tuple[Parameter, ...] = ()
    metric: str = ""
    mode: str = "max"
    samples: int = 1
    repeat: int = 1
    search: str = "random"
    scheduler: str = "none"
    seed: int = 0
    resources: Resources = Resources()
    processes: int = 1
    nodes: str = "any"
    concurrent: bool = False
    stall: float = 0.0
    max_failures: int = 0
    reader: Reader = Reader()
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    pip: tuple[str, ...] = ()
    py_modules: tuple[str, ...] = ()
    program: int = 0

    @property
    def trials(self) -> int:
        """How many trials there are in all."""
        return len(self.tasks) or self.samples * self.repeat

    def grid(self) -> list[dict[str, Any]]:
        """All points of a grid, in order."""
        names = [parameter.name for parameter in self.space]
        return [dict(zip(names, point, strict=True)) for point in itertools.product(*(p.values for p in self.space))]


def contradictions(sweep: Sweep) -> list[str]:
    """What cannot be meant."""
    continuous = [parameter.name for parameter in sweep.space if parameter.kind not in ("choice", "grid")]
    rules = {
        "neither command nor tasks says what to run": not sweep.command and not sweep.tasks,
        "command and tasks say the same thing: give one": sweep.command and sweep.tasks,
        "tasks have no space: write the values into their commands": sweep.tasks and sweep.space,
        "metric is missing: a search and a scheduler need it": not sweep.metric
        and (sweep.search == "optuna" or sweep.scheduler != "none"),
        "a scheduler needs a space": sweep.scheduler != "none" and not sweep.space,
        "a scheduler judges single trials: leave out repeat": sweep.scheduler != "none" and sweep.repeat > 1,
        f"search: grid takes choices alone, not {', '.join(continuous)}": sweep.search == "grid" and continuous,
        "concurrent starts all trials at once: a search learns nothing, take random or grid": sweep.concurrent
        and (sweep.search == "optuna" or sweep.scheduler != "none"),
    }
    return [text for text, wrong in rules.items() if wrong]


def wrong_values(kind: str, values: Sequence[Any]) -> str:
    """Why these values make no distribution; empty if they do."""
    if kind not in _PAIRS:
        return ""
    if len(values) != 2 or not all(isinstance(value, int | float) for value in values):
        return f"{kind} takes two numbers"
    if kind == "normal":
        return "" if values[1] > 0 else "the deviation must be above 0"
    if kind == "randint" and not all(isinstance(value, int) for value in values):
        return "randint takes whole numbers"
    if values[0] >= values[1]:
        return "the first bound must be below the second"
    return "loguniform takes numbers above 0" if kind == "loguniform" and values[0] <= 0 else ""


def record(sweep: Sweep) -> dict[str, Any]:
    """A sweep as JSON, without the environment, which may hold secrets."""
    return {name: value for name, value in asdict(sweep).items() if name != "environment"}


def from_record(content: Mapping[str, Any]) -> Sweep:
    """The sweep of a record."""
    whole: dict[str, Any] = {
        **content,
        "space": tuple(Parameter(**{**entry, "values": tuple(entry["values"])}) for entry in content["space"]),
        "tasks": {name: tuple(command) for name, command in content["tasks"].items()},
        "resources": Resources(**content["resources"]),
        "reader": Reader(**content["reader"]),
    }
    fields: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in whole.items()}
    return Sweep(**fields)


def grid_size(space: tuple[Parameter, ...]) -> int:
    """How many points a grid has."""
    return math.prod(len(parameter.values) for parameter in space)


def arguments(command: tuple[str, ...], values: Mapping[str, Any]) -> list[str]:
    """The command of one trial: {name} is replaced; what the command does not name is appended as name=value."""
    used = {name for name in values if any(f"{{{name}}}" in word for word in command)}
    words = [_filled(word, values) for word in command]
    return words + [f"{name}={text(value)}" for name, value in values.items() if name not in used]


def values_as_words(command: tuple[str, ...], values: Mapping[str, Any]) -> list[str]:
    """name=value of each; by the name that the command gives it, as debugging.seed={seed} does."""
    found = (re.fullmatch(r"([^={}]+)=\{([^{}]+)\}", word) for word in command)
    names = {match[2]: match[1] for match in found if match}
    return [f"{names.get(name, name)}={text(value)}" for name, value in values.items()]


def _filled(word: str, values: Mapping[str, Any]) -> str:
    for name, value in values.items():
        word = word.replace(f"{{{name}}}", text(value))
    return word


def text(value: Any) -> str:
    """A value as an argument: true and null as YAML has them, floats with all digits that matter."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return repr(value) if isinstance(value, float) else str(value)
