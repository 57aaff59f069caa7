"""Which variables hold secrets, by their names; and texts in which no secret is seen. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from itertools import groupby

MASK = "***"
RULE = "*_KEY, *_TOKEN, *SECRET*, *PASSWORD*"
_SECRET = re.compile(r".+_KEY|.+_TOKEN|.*SECRET.*|.*PASSWORD.*", re.IGNORECASE | re.DOTALL)
_ASSIGNMENT = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_-]*)=(?P<value>[^,\s]{4,})")
# Shorter values, such as 1 or true, stand in any text by chance.
_LEAST = 8


def is_secret(name: str) -> bool:
    """True for the names that the world gives to secrets: WANDB_API_KEY, HF_TOKEN, AWS_SECRET_ACCESS_KEY."""
    return _SECRET.fullmatch(name) is not None


def secrets_in(environ: Mapping[str, str]) -> tuple[str, ...]:
    """The secrets of an environment that are long enough to be told from other text."""
    return tuple(value for name, value in environ.items() if len(value) >= _LEAST and is_secret(name))


def masked(text: str, secrets: Iterable[str]) -> str:
    """The text with every secret in it hidden, also within a word; of secrets that overlap nothing is left."""
    hidden = bytearray(len(text))
    for secret in filter(None, secrets):
        place = text.find(secret)
        while place >= 0:
            hidden[place : place + len(secret)] = bytes([1]) * len(secret)
            place = text.find(secret, place + 1)
    if not any(hidden):
        return text
    parts = groupby(zip(text, hidden, strict=True), key=lambda pair: pair[1])
    return "".join(MASK if hide else "".join(char for char, _ in part) for hide, part in parts)


def secrets_among(words: Iterable[str]) -> tuple[str, ...]:
    """What stands behind NAME= in a command, where NAME is a secret's."""
    found = (match for word in words for match in _ASSIGNMENT.finditer(word))
    return tuple(match["value"] for match in found if is_secret(match["name"].replace("-", "_")))


def shown_words(words: Iterable[str], environ: Mapping[str, str]) -> tuple[str, ...]:
    """A command as lists and records have it: without secrets of the environment, and without NAME=secret."""
    given = tuple(words)
    secrets = (*secrets_in(environ), *secrets_among(given))
    return tuple(masked(word, secrets) for word in given)


def masked_log(content: bytes, environ: Mapping[str, str]) -> bytes:
    """What a program has written, without the secrets of the environment, as they are or as JSON has them."""
    for value in secrets_in(environ):
        for form in dict.fromkeys([value, json.dumps(value)[1:-1], repr(value)[1:-1]]):
            content = content.replace(form.encode(errors="surrogateescape"), MASK.encode())
    return content
