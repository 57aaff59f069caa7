"""Hydra composes the settings: our defaults, the user's files and groups, then the overrides of the command line."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from rayhpc.rllib.errors import UsageError
from rayhpc.user_input import files

PACKAGE = "rayhpc.lab.conf"
OURS = Path(__file__).parent / "conf"
# The group of files that are whole trainings.
EXPERIMENT = "experiment"


@dataclass(frozen=True)
class Source:
    """Where settings come from, as Hydra's own options say it."""

    overrides: tuple[str, ...] = ()
    config_dir: str | None = None
    config_name: str | None = None


def compose(source: Source) -> dict[str, Any]:
    """Plain settings, interpolations resolved; UsageError where Hydra refuses."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir, initialize_config_module
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if source.config_dir is not None and not Path(source.config_dir).is_dir():
        raise UsageError(f"--config-dir {source.config_dir}: there is no such directory")
    _check_file(source)
    own = source.config_name is not None and not _own_file(source).is_relative_to(OURS)
    folder = str(Path(source.config_dir or ".").resolve())
    begin = partial(initialize_config_dir, folder) if own else partial(initialize_config_module, PACKAGE)
    # The working directory is no place for groups: a virtual environment there is often called env.
    other = f"pkg://{PACKAGE}" if own else f"file://{folder}" if source.config_dir else ""
    try:
        with begin(version_base="1.3"):
            words = [f"hydra.searchpath=[{other}]", *_additive(source)]
            composed = hydra_compose(source.config_name or "lab", overrides=words)
            settings = OmegaConf.to_container(composed, resolve=True)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, UnicodeDecodeError) as problem:
        raise UsageError(str(problem).strip()) from problem
    assert isinstance(settings, dict)
    return {str(name): value for name, value in settings.items()}


def _check_file(source: Source) -> None:
    """Raises UsageError for a configuration of the user's that is not there, or is no file of a fitting size."""
    path = _own_file(source)
    if source.config_name is None or path.is_relative_to(OURS):
        return
    try:
        files.read_text(path)
    except (OSError, UnicodeDecodeError) as problem:
        why = problem.strerror if isinstance(problem, OSError) else str(problem)
        raise UsageError(f"--config-name {source.config_name}: {path} cannot be read: {why}") from problem


def _own_file(source: Source) -> Path:
    """The file that --config-name means: the user's, or one of ours where there is none of theirs."""
    name = f"{source.config_name}".removesuffix(".yaml") + ".yaml"
    own = Path(source.config_dir or ".") / name
    return OURS / name if (OURS / name).is_file() and not own.exists() else own


def _additive(source: Source) -> Iterator[str]:
    """Overrides such that a key need not be in a file to be set: what there is, RLlib says and not the files.

    Hydra wants `+` for a group that the list of defaults has not, and `++` for a key that may be there or not.
    """
    parsed(source)
    for word in source.overrides:
        name, sign, value = word.partition("=")
        groups = [folder / name for folder in _folders(source) if name and (folder / name).is_dir()]
        there = sorted(path.stem for group in groups for path in group.glob("*.yaml"))
        if not sign or name.startswith(("+", "~", "hydra.", "hydra/")):
            yield word
        elif value in there:
            yield word if name in _default_groups(source) else f"+{word}"
        elif groups:
            raise UsageError(f"{word}: {name} is a group of files in {groups[-1].parent}: {', '.join(there) or 'none'}")
        else:
            yield f"++{word}"


def parsed(source: Source) -> list[Any]:
    """The overrides as Hydra understands them; UsageError for one that it does not."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser, found = OverridesParser.create(), []
    for word in source.overrides:
        try:
            found.append(parser.parse_override(word))
        except HydraException as problem:
            raise UsageError(f"{word}: Hydra says: {str(problem).splitlines()[0]}") from problem
    return found


def _folders(source: Source) -> list[Path]:
    """Where groups of files are looked for: with ours, and in the user's directory."""
    return [OURS, *([Path(source.config_dir or ".")] if source.config_dir or source.config_name else [])]


def experiments() -> list[str]:
    """The names of ours."""
    return sorted(path.stem for path in (OURS / EXPERIMENT).glob("*.yaml"))


def _default_groups(source: Source) -> set[str]:
    """The groups in the list of defaults of the user's own configuration."""
    from omegaconf import OmegaConf

    listed = OmegaConf.to_container(OmegaConf.load(_own_file(source))) if source.config_name else {}
    entries = listed.get("defaults", []) if isinstance(listed, dict) else []
    return {str(name).removeprefix("override ") for entry in entries if isinstance(entry, dict) for name in entry}


def sweep(source: Source) -> list[Source]:
    """One source for each combination of the values that are separated by commas, as Hydra's -m has it."""
    choices = [
        [f"{one.key_or_group}={each}" for each in one.sweep_string_iterator()] if one.is_sweep_override() else [word]
        for one, word in zip(parsed(source), source.overrides, strict=True)
    ]
    return [Source(words, source.config_dir, source.config_name) for words in itertools.product(*choices)]
