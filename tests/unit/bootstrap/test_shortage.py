"""What Ray writes when the kernel refuses it something, and what the user reads of it. Words as Ray 2.60 wrote them."""

from __future__ import annotations

import pytest

from rayhpc.bootstrap.shortage import lacking, remedy, shortage

THREADS = "E1128 09:12:38.919302607   24060 thd.cc:157]      pthread_create failed: Resource temporarily unavailable"
MMAP = "[2026-11-28 09:09:34 E 20354 20365] (raylet) dlmalloc.cc:215: mmap failed with error: Cannot allocate memory"
FRAME = "    @     0x7f5f8725a050      16400  (unknown)"


@pytest.mark.parametrize(
    ("line", "what", "step"),
    [
        (THREADS, "processes or threads", "pids.max"),
        ("  what():  Resource temporarily unavailable", "processes or threads", "ulimit -u"),
        ("RuntimeError: can't start new thread", "processes or threads", "ulimit -u"),
        (MMAP, "memory or address space", "ulimit -v"),
        ("terminate called after throwing an instance of 'std::bad_alloc'", "memory or address space", "ulimit -v"),
        ("ImportError: libarrow.so: failed to map segment from shared object", "memory or address space", "ulimit -v"),
    ],
)
def test_a_line_names_what_is_lacking(line: str, what: str, step: str) -> None:
    found = shortage([FRAME, line, FRAME])
    assert found
    assert found in line
    assert lacking(found) == what
    assert step in remedy(found)


def test_other_lines_name_nothing() -> None:
    assert shortage([FRAME, "Address already in use", ""]) == ""
