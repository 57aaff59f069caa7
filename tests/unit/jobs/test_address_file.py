"""The file of addresses: what other tools write is read, what is written is read back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayhpc.errors import RayhpcError
from rayhpc.jobs import address_file
from rayhpc.jobs.address_file import Address

NAMES = st.from_regex(r"\A[a-z0-9]([a-z0-9 ._-]{0,20}[a-z0-9])?\Z")
URLS = st.from_regex(r"\Ahttps?://([a-z0-9.-]{1,20}|\[fe80::[0-9a-f]{1,4}\]):[1-9][0-9]{0,4}\Z")


def test_names_comments_and_blank_lines() -> None:
    text = (
        "# my clusters\n\n# Cluster: left\nhttp://10.0.0.1:8265\n#Cluster:right \n  10.0.0.2:8266/  \n[fd00::5]:8265\n"
    )
    assert address_file.parse(text, "f") == (
        Address("http://10.0.0.1:8265", "left"),
        Address("http://10.0.0.2:8266", "right"),
        Address("http://[fd00::5]:8265"),
    )


@given(st.lists(st.builds(Address, URLS, st.just("") | NAMES), min_size=1))
def test_what_is_written_is_read_back(addresses: list[Address]) -> None:
    assert address_file.parse(address_file.text(addresses), "f") == tuple(addresses)


@pytest.mark.parametrize(
    "line", ["nonsense", "host", "host:", "ftp://h:1", "http://me:pw@h:1", "h:1 h:2", "h:1/x", "auto"]
)
def test_a_line_that_is_no_address_is_named(line: str) -> None:
    with pytest.raises(RayhpcError, match=r"clusters\.txt, line 2: .* is no address"):
        address_file.parse(f"h:1\n{line}\n", "clusters.txt")


def test_no_address_at_all() -> None:
    with pytest.raises(RayhpcError, match=r"clusters\.txt names no address"):
        address_file.parse("# Cluster: left\n\n", "clusters.txt")
