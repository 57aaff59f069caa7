"""Durations and sizes, as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayhpc import units

DAY = 86400


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0), ("3600", 3600), ("90.5", 90.5), (" 60 ", 60),
        ("10:00", 600), ("01:00:00", 3600), ("1:02:03", 3723), ("0:30.5", 30.5), ("100:00:00", 360000),
        ("1-00:00:00", DAY), ("1-12", DAY + 12 * 3600), ("1-12:30", DAY + 12.5 * 3600), ("2-01:00:01", 2 * DAY + 3601),
    ],
)  # fmt: skip
def test_seconds(text: str, seconds: float) -> None:
    assert units.seconds(text) == seconds


@pytest.mark.parametrize(
    "text", ["", " ", "1h", "-1", "1:2:3:4", ":30", "30:", "1-", "-1:00", "1.5:00", "1e3", "inf", "nan"]
)
def test_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration"):
        units.seconds(text)


@given(st.integers(0, 99), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_a_clock_reads_as_its_seconds(days: int, hours: int, minutes: int, seconds: int) -> None:
    expected = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    assert units.seconds(f"{days}-{hours:02}:{minutes:02}:{seconds:02}") == expected
    assert units.seconds(str(expected)) == expected
    assert units.seconds(f"{days * 24 + hours}:{minutes}:{seconds}") == expected


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0), ("1000000000", 10**9), ("64G", 64 * 2**30), ("64g", 64 * 2**30), ("64 GB", 64 * 2**30),
        ("512M", 512 * 2**20), ("1.5TiB", 1.5 * 2**40), ("2k", 2048), ("7b", 7), ("0.5K", 512), (" 1G ", 2**30),
    ],
)  # fmt: skip
def test_size(text: str, size: int) -> None:
    assert units.size(text) == size


@pytest.mark.parametrize("text", ["", "G", "1X", "-1G", "1,5G", "1 0", "1GG", "inf", "nan", "1e9", "0x10"])
def test_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="is no size"):
        units.size(text)


@given(st.integers(0, 2**53), st.sampled_from(["", "k", "M", "G", "T"]), st.sampled_from(["", "B", "iB", "ib"]))
def test_whole_sizes_are_exact(number: int, unit: str, tail: str) -> None:
    factor = 1024 ** " kmgt".index(unit.lower() or " ")
    assert units.size(f"{number}{unit}{tail}") == number * factor


@given(st.text(max_size=12))
def test_anything_else_is_a_value_error(text: str) -> None:
    for read in (units.seconds, units.size):
        try:
            assert read(text) >= 0
        except ValueError as error:
            assert repr(text) in str(error)


# float() makes infinity of 400 digits, of which int() makes an OverflowError.
def test_a_number_beyond_all_bounds_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="is no size"):
        units.size("9" * 400)
