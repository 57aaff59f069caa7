"""`${VAR}` in a file of the user's: from the environment, or from an .env file. Which of them are secrets. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from rayhpc.user_input.secret_names import is_secret, masked, secrets_in

_USE = re.compile(r"\$\$\{|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}|\$\{")
_SETTING = re.compile(r"(?:export\s+)?(?P<name>[A-Za-z_][A-Za-z0-9_]*)\s*=\s*(?P<value>.*)")
_QUOTED = re.compile(r"""(?:'(?P<plain>[^']*)'|"(?P<escaped>(?:[^"\\]|\\.)*)")\s*(?:#.*)?""")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}


@dataclass(frozen=True)
class Wrong:
    """What cannot be replaced: the offset in the text, and why."""

    offset: int
    text: str


@dataclass(frozen=True)
class Expanded:
    """A text whose variables were replaced; secrets: the names of those in it that nobody may see."""

    text: str = field(repr=False)
    secrets: tuple[str, ...]
    wrong: tuple[Wrong, ...] = ()


@dataclass(frozen=True)
class Variables:
    """What `${VAR}` may name: the environment wins over the .env file, and is as secret as that where both have it.

    Secret is what the .env file has, and what is called as secrets are; but for the names in `public`.
    """

    environ: Mapping[str, str] = field(repr=False)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    public: frozenset[str] = frozenset()

    def hides(self, name: str) -> bool:
        """True for a variable whose value nobody may see."""
        return name not in self.public and (name in self.secrets or is_secret(name))

    def expand(self, text: str) -> Expanded:
        """The text with ${VAR} and ${VAR:-default} replaced, and `$${` for the characters `${`."""
        wrong: list[Wrong] = []
        names = {match["name"] for match in _USE.finditer(text) if match["name"]}

        def value(match: re.Match[str]) -> str:
            found = self._value(match)
            if isinstance(found, Wrong):
                wrong.append(found)
                return match[0]
            return found

        expanded = _USE.sub(value, text)
        secrets = sorted(name for name in names if self.hides(name) and self._value_of(name))
        return Expanded(expanded, tuple(secrets), tuple(wrong))

    def _value(self, match: re.Match[str]) -> str | Wrong:
        if match["name"] is None:
            return "${" if match[0] == "$${" else Wrong(match.start(), "`${` begins no ${NAME}: write $${ for itself")
        known, default = self._value_of(match["name"]), match["default"]
        if default is not None:
            return known or default
        return Wrong(match.start(), f"{match['name']} is not set") if known is None else known

    def _value_of(self, name: str) -> str | None:
        return self.environ.get(name, self.secrets.get(name))

    def mask(self, text: str) -> str:
        """The text without any secret's value."""
        named = {name: value for name, value in self.secrets.items() if name not in self.public}
        overriding = (self.environ.get(name, "") for name in named)
        shown = {name: value for name, value in self.environ.items() if name not in self.public}
        return masked(text, [*named.values(), *overriding, *secrets_in(shown)])


@dataclass(frozen=True)
class Settings:
    """What an .env file sets, and the lines that set nothing."""

    values: dict[str, str] = field(repr=False)
    wrong: tuple[int, ...] = ()


def settings(text: str) -> Settings:
    """NAME=VALUE lines, as in an .env file: comments, `export`, single and double quotes."""
    values: dict[str, str] = {}
    wrong = []
    for number, line in enumerate(text.splitlines(), 1):
        match = _SETTING.fullmatch(line.strip())
        value = _plain_value(match["value"]) if match else None
        if match and value is not None:
            values[match["name"]] = value
        elif line.strip() and not line.lstrip().startswith("#"):
            wrong.append(number)
    return Settings(values, tuple(wrong))


def _plain_value(text: str) -> str | None:
    """What a value stands for; None for a quote that does not end."""
    if text[:1] not in ("'", '"'):
        return re.sub(r"(^|\s+)#.*", "", text).strip()
    match = _QUOTED.fullmatch(text)
    if match is None:
        return None
    if match["plain"] is not None:
        return match["plain"]
    return re.sub(r"\\(.)", lambda found: _ESCAPES.get(found[1], found[1]), match["escaped"])
