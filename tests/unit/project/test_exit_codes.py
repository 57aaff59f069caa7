"""One table of exit codes: in the program and, where it is written down, in docs/exit-codes.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rayhpc.errors import MEANINGS, ExitCode

DOCUMENT = Path(__file__).parents[3] / "docs" / "exit-codes.md"


@pytest.mark.parametrize("code", ExitCode)
def test_every_code_has_a_meaning(code: ExitCode) -> None:
    assert MEANINGS[code]
    assert not MEANINGS[code].endswith(".")


def test_no_meaning_is_another_s() -> None:
    assert set(MEANINGS) == set(ExitCode)
    assert len(set(MEANINGS.values())) == len(ExitCode)


def test_no_code_is_a_success_or_a_signal() -> None:
    assert all(1 < code < 128 for code in ExitCode)


def test_codes_that_others_have_given_a_meaning() -> None:
    """sysexits.h: EX_SOFTWARE, EX_TEMPFAIL, EX_CONFIG; POSIX shells: 126, 127, and 2 for usage."""
    assert (ExitCode.INTERNAL, ExitCode.REQUEUE, ExitCode.CONFIGURATION) == (70, 75, 78)
    assert (ExitCode.NOT_EXECUTABLE, ExitCode.NOT_FOUND, ExitCode.USAGE) == (126, 127, 2)


def table(text: str) -> dict[int, list[str]]:
    """Rows of a Markdown table whose first cell is one number above 0: the other cells, without their marks."""
    rows = [
        [re.sub(r"[`*]", "", cell).strip() for cell in line.strip().strip("|").split("|")] for line in text.splitlines()
    ]
    return {int(cells[0]): cells[1:] for cells in rows if cells[0].isdecimal() and int(cells[0]) > 0}


def test_the_table_is_read() -> None:
    assert table("| code | meaning |\n|---|---|\n| 0 | good |\n| `70` | **a** fault | x |\n| 128+n | signal |") == {
        70: ["a fault", "x"]
    }


def test_the_document_says_what_the_program_says() -> None:
    if not DOCUMENT.exists():
        pytest.skip("docs/exit-codes.md is not written yet")
    documented = table(DOCUMENT.read_text())
    assert set(documented) == {int(code) for code in ExitCode}
    assert {code: MEANINGS[ExitCode(code)] for code in documented} == {
        code: next((cell for cell in cells if cell == MEANINGS[ExitCode(code)]), cells)
        for code, cells in documented.items()
    }
