"""${VAR}, .env files, and secrets that nobody sees."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rayhpc.jobs.job_file.variables import Variables, settings
from rayhpc.user_input.secret_names import MASK, masked

VARIABLES = Variables({"A": "one", "EMPTY": ""}, {"TOKEN": "s3cret", "A": "of the file"})


@pytest.mark.parametrize(
    ("text", "expanded", "secret"),
    [
        ("${A}", "one", True),  # as secret as the file where both have it
        ("x ${TOKEN} y", "x s3cret y", True),
        ("${EMPTY}", "", False),
        ("${EMPTY:-two}", "two", False),
        ("${NONE:-two words}", "two words", False),
        ("${NONE:-}", "", False),
        ("${TOKEN:-two}", "s3cret", True),
        ("$A $$ $(x) ${", "$A $$ $(x) ${", False),
        ("$${A} $${", "${A} ${", False),
        ("$$${A}", "$${A}", False),
    ],
)
def test_expansion(text: str, expanded: str, secret: bool) -> None:
    found = VARIABLES.expand(text)
    assert (found.text, bool(found.secrets)) == (expanded, secret)
    assert bool(found.wrong) == text.endswith(" ${")


def test_what_is_not_set_has_its_place() -> None:
    wrong = VARIABLES.expand("a\n${NONE} ${ALSO}\n${2}").wrong
    assert [(it.offset, it.text.split()[0]) for it in wrong] == [(2, "NONE"), (10, "ALSO"), (18, "`${`")]


@given(st.text())
@example("$${")
@example("$$${{")
def test_what_is_escaped_comes_back(text: str) -> None:
    assert VARIABLES.expand(text.replace("${", "$${")).text == text


@given(st.text(max_size=9), st.lists(st.text(min_size=1, max_size=4), max_size=4), st.text(max_size=9))
@example("ab", ["abc", "bcd"], "cd")
def test_no_secret_is_seen(before: str, secrets: list[str], after: str) -> None:
    text = before + "".join(secrets) + after
    shown = masked(text, secrets)
    assert [secret for secret in secrets for part in shown.split(MASK) if secret in part] == []


@given(st.text())
def test_without_secrets_all_is_seen(text: str) -> None:
    assert masked(text, ["", text + "x"]) == text


def test_a_secret_within_a_word() -> None:
    assert VARIABLES.mask("Bearer:s3cret, s3cre, one, of the file") == f"Bearer:{MASK}, s3cre, {MASK}, {MASK}"


def test_nothing_shows_them_by_accident() -> None:
    found = (VARIABLES, VARIABLES.expand("${TOKEN}"), settings("TOKEN=s3cret"))
    assert "s3cret" not in repr(found)


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("A=b", "b"),
        (" export A = b c  # comment", "b c"),
        ("A=b#c", "b#c"),
        ("A=", ""),
        ("A=#x", ""),
        ("A='it # is'  # so", "it # is"),
        ('A="two\\nlines \\"x\\""', 'two\nlines "x"'),
        ("A=b=c", "b=c"),
    ],
)
def test_settings(line: str, value: str) -> None:
    assert settings(f"# x\n\n{line}\n").values == {"A": value}


@pytest.mark.parametrize("line", ["A", "2=x", "A='x", 'A="x\\"', "A b=c", "A='x' y"])
def test_lines_that_set_nothing(line: str) -> None:
    assert (settings(f"B=c\n{line}\n").values, settings(f"B=c\n{line}\n").wrong) == ({"B": "c"}, (2,))
