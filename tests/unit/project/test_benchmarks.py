"""The pure parts of benchmarks/: what /proc says, medians and ratios, what is drawn."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__ as program
from benchmarks import contenders, growth, picture, places, plots, processes, report, scale, speed
from benchmarks.report import Spread

TICK = os.sysconf("SC_CLK_TCK")
# A name with what stat itself uses as separators; user, system, and the children's user and system time last.
STAT = f"41 (a) b(c) S 7 41 41 0 -1 4194560 100 0 0 0 {3 * TICK} {2 * TICK} {10 * TICK} {20 * TICK} 20 0 1 0 555"


def sample(contender: str, turn: int, first_task: float, **more: Any) -> dict[str, Any]:
    return {
        "place": "hosts", "nodes": 4, "contender": contender, "turn": turn, "first_task": first_task,
        "job": None, "release": None, "left": 0, **more,
    }  # fmt: skip


def test_cpu_seconds_of_a_stat() -> None:
    assert processes.parse_cpu(STAT) == 5
    assert processes.parse_cpu(STAT, children=True) == 35


def test_the_parent_in_a_stat() -> None:
    assert processes.parse_parent(STAT) == 7
    assert processes.parse_parent(STAT.replace(" S 7", " Z 7")) == 0
    assert processes.parse_parent("") == 0


def test_memory_of_a_rollup() -> None:
    rollup = "55-7f [rollup]\nRss:    2048 kB\nPss:   1024 kB\nPss_Dirty:  1 kB\n"
    assert processes.parse_memory(rollup) == (2 * 2**20, 2**20)


def test_a_family_holds_what_is_below_its_roots() -> None:
    parents = {2: 1, 3: 2, 4: 3, 5: 1, 6: 5}
    assert processes.family({2}, parents) == {2, 3, 4}
    assert processes.family(set(), parents) == set()


def test_this_process_has_used_something() -> None:
    used = processes.usage(Path("/proc"), [os.getpid(), 2**22 + 1])
    assert used.count == 1
    assert used.cpu > 0
    assert used.rss >= used.pss > 2**20


def test_a_process_is_found_by_its_mark(tmp_path: Path) -> None:
    for pid, environ, stat in [
        (1, b"", "1 (init) S 0"),
        (5, b"A=1\0RAYHPC_BENCH=x\0", "5 (p) S 1"),
        (6, b"", "6 (q) S 5"),
    ]:
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "environ").write_bytes(environ)
        (tmp_path / str(pid) / "stat").write_text(stat)
    assert processes.marked("x", tmp_path) == [5, 6]
    assert processes.marked("", tmp_path) == []


def test_our_own_processes_are_the_ranks_and_the_keepers(tmp_path: Path) -> None:
    lines = {
        1: b"python\0-m\0rayhpc.start\0--\0python\0t.py\0", 2: b"python\0/x/rayhpc/processes/keeper.py\0run/0\0",
        3: b"python\0t.py\0", 4: b"raylet\0--dir=/tmp/rayhpc.start\0",
        5: b"srun\0python\0-m\0rayhpc.start\0", 6: b"",
    }  # fmt: skip
    for pid, line in lines.items():
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "cmdline").write_bytes(line)
    assert processes.ours(tmp_path, [*range(1, 7), 9]) == [1, 2]


def test_a_spread_is_a_median_between_two_ends() -> None:
    assert Spread.of([]) is None
    assert Spread.of([3.0]) == Spread(3.0, 3.0, 3.0, 1)
    assert Spread.of([5.0, 1.0, 2.0]) == Spread(2.0, 1.0, 5.0, 3)
    assert Spread(5.25, 5.0, 6.0, 3).text() == "5.2 (5.0-6.0)"


def test_ratios_are_taken_within_a_turn() -> None:
    table = report.rows(
        [
            sample("rayhpc", 0, 5.0),
            sample("template", 0, 20.0),
            sample("rayhpc", 1, 8.0),
            sample("template", 1, 16.0),
            sample("rayhpc", 2, 1.0),
            sample("template", 3, 99.0),
        ]
    )
    assert [row.contender for row in table] == ["rayhpc", "template"]
    assert table[1].ratios["first_task"] == Spread(0.375, 0.25, 0.5, 2)
    assert table[1].ratios["job"] is None


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("/v/bin/python -m rayhpc.start --num-cpus 1 /b/driver.py 4", "ranks"),
        ("srun --mpi=pmi2 /v/bin/python -m rayhpc.start /b/driver.py", "launcher"),
        ("python3 -I -S /v/rayhpc/processes/keeper.py node", "keepers"),
        ("/v/bin/python /v/rayhpc/inside_ray/ray_command.py", "ray start"),
        ("/v/bin/python -u /b/driver.py dir 4 0", "driver"),
        ("/v/bin/python /v/ray/_private/workers/default_worker.py --node-ip-address=1", "workers"),
        ("ray::IDLE", "workers"),
        ("/v/ray/core/src/ray/raylet/raylet --raylet_socket_name=x", "GCS, raylets, agents"),
        ("/v/ray/core/src/ray/gcs/gcs_server --log_dir=x", "GCS, raylets, agents"),
        ("/v/bin/python -u /v/rayhpc/inside_ray/deferred_agent.py /v/ray/main.py", "GCS, raylets, agents"),
        ("/v/bin/hydra_pmi_proxy --pgid 0", "launcher"),
        ("", "launcher"),
    ],
)
def test_what_a_process_of_a_run_is(words: str, kind: str) -> None:
    assert processes.kind(words.encode().split(b" ")) == kind


def test_cpu_seconds_by_kind(tmp_path: Path) -> None:
    for pid, words in ((41, b"ray::IDLE"), (42, b"sleep\0infinity"), (43, b"ray::task")):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "stat").write_text(STAT)
        (tmp_path / str(pid) / "cmdline").write_bytes(words)
    used = processes.cpu_by_kind((tmp_path, pid) for pid in (41, 42, 43, 44))
    assert used == {**dict.fromkeys(processes.KINDS, 0.0), "workers": 70.0, "GCS, raylets, agents": 35.0}


def test_the_bring_up_is_told_by_kind() -> None:
    bring_up = dict.fromkeys(processes.KINDS, 1.0)
    idle = {
        "place": "hosts", "nodes": 2, "processes": 7, "cpu_per_minute": 0.2, "rss": 2**20, "pss": 2**20,
        "largest_rss": 2**21, "bring_up": bring_up,
    }  # fmt: skip
    lines = report.markdown([], [idle], {"cores": 2}).splitlines()
    assert lines[-3].count("|") == lines[-2].count("|") == lines[-1].count("|") == len(processes.KINDS) + 4
    assert lines[-1].endswith(" 7.0 | 3.5 |")


def test_what_never_ended_is_said() -> None:
    table = report.rows([sample("rayhpc", 0, 5.0, job=6.0, release=0.4), sample("template", 0, 20.0, left=3)])
    text = report.markdown(table, [], {"cores": 2})
    assert "| 4 hosts | rayhpc | 1 | 5.0 (5.0-5.0) | 6.0 (6.0-6.0) | 0.4 (0.4-0.4) |  |" in text
    assert "| 1 x not within 120 s | 1 x not within 120 s | first task 0.25 (0.25-0.25) |" in text


def test_places_and_sizes_stay_apart() -> None:
    table = report.rows(
        [sample("rayhpc", 0, 5.0), sample("rayhpc", 0, 3.0, nodes=1), sample("rayhpc", 0, 4.0, place="one host")]
    )
    assert [(row.place, row.nodes) for row in table] == [("hosts", 1), ("hosts", 4), ("one host", 4)]
    assert [report.place_name(row.place, row.nodes) for row in table] == ["1 host", "4 hosts", "one host, 4 nodes"]


def test_lines_that_were_kept_are_read_again(tmp_path: Path) -> None:
    assert report.load(tmp_path / "runs.jsonl") == []
    for turn in range(2):
        report.keep(tmp_path / "runs.jsonl", sample("rayhpc", turn, 5.0))
    assert [entry["turn"] for entry in report.load(tmp_path / "runs.jsonl")] == [0, 1]


def test_bars_have_whiskers_from_the_least_to_the_greatest(tmp_path: Path) -> None:
    samples = [sample("rayhpc", turn, seconds) for turn, seconds in enumerate([5.0, 6.0, 9.0])]
    table = report.rows([*samples, sample("template", 0, 20.0), sample("rayhpc", 0, 3.0, nodes=1)])
    assert plots.bars(table, "hosts", "first_task") == [
        plots.Bar(0, "rayhpc", 3.0, 0.0, 0.0), plots.Bar(1, "rayhpc", 6.0, 1.0, 3.0),
        plots.Bar(1, "template", 20.0, 0.0, 0.0),
    ]  # fmt: skip
    assert plots.bars(table, "hosts", "release") == []
    plots.draw(table, "hosts", tmp_path / "hosts.png")
    assert (tmp_path / "hosts.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_line() -> None:
    options = program.parse(["--ranks", "1,2", "--contenders", "by hand,rayhpc"])
    assert (options.hosts, options.ranks, options.repeat) == (None, [1, 2], 5)
    assert [contender.name for contender in options.contenders] == ["by hand", "rayhpc"]


@pytest.mark.parametrize("words", [["--ranks", "0"], ["--hosts", "x"], ["--contenders", "nobody"]])
def test_a_wrong_command_line_is_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit):
        program.parse(words)


def test_the_drivers_speeds_are_compared_turn_by_turn() -> None:
    turns = [{speed.RAYHPC: 100.0, speed.PLAIN: 200.0}, {speed.RAYHPC: 300.0, speed.PLAIN: 300.0}]
    assert speed.summary(turns) == {
        speed.RAYHPC: Spread(200.0, 100.0, 300.0, 2), speed.PLAIN: Spread(250.0, 200.0, 300.0, 2),
        "ratio": Spread(0.75, 0.5, 1.0, 2),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("count", "low", "high"), [(1, 0, 0), (3, 0, 2), (5, 0, 4), (6, 0, 5), (9, 1, 7), (20, 5, 14), (100, 39, 60)]
)
def test_a_median_is_as_sure_as_the_binomial_says(count: int, low: int, high: int) -> None:
    """The ranks of textbooks' tables, from 0; with fewer than six figures no two of them are far enough apart."""
    assert speed.confidence([float(number) for number in reversed(range(count))]) == (low, high)


def test_the_figures_of_growth() -> None:
    def noted(**moments: tuple[float, float, int, int]) -> dict[str, Any]:
        names = ("at", "cpu", "sent", "received")
        return {"rss": 40e6, **{name: dict(zip(names, figures, strict=True)) for name, figures in moments.items()}}

    zero = noted(
        met=(1.0, 0.1, 0, 0), agreed=(4.0, 0.3, 600, 400), up=(6.0, 0.4, 600, 400), driver=(6.0, 0.5, 600, 400),
        decided=(36.0, 0.8, 700, 450), released=(37.5, 0.9, 700, 450),
    )  # fmt: skip
    other = noted(met=(1.0, 0.1, 0, 0), agreed=(4.0, 0.2, 300, 150), left=(38.0, 0.4, 500, 300))
    events = [{"at": 2.5, "stage": "imported"}, {"at": 3.0, "stage": "imported"}, {"at": 4.0, "stage": "agreed"}]
    figures = growth.growth([zero, other, other], events, 0.25)
    assert (figures.ranks, figures.agreement_seconds, figures.start_seconds, figures.release_seconds) == (3, 1, 2, 1.5)
    assert figures.meeting_seconds == 0.75
    assert (figures.agreement_bytes, figures.others_bytes, figures.supervised_bytes) == (500, 800, 300)
    assert figures.supervised_cpu == pytest.approx(0.6)
    assert figures.others_agreement_cpu == pytest.approx(0.1)


def test_growth_is_drawn(tmp_path: Path) -> None:
    found = [growth.Growth(ranks, *(float(ranks + n) for n in range(14))) for ranks in (2, 4)]
    growth.draw(found, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")


def test_the_table_of_scale() -> None:
    done = scale.Scale("hosts", 16, "rayhpc", 20.04, 1.26, 4.567, 81.4e6, 6.0, 0)
    left = scale.Scale("hosts", 16, "symmetric-run", 60.0, None, 5.0, 80e6, 5.5, 7)
    _, _, first, second = scale.table([done, left])
    assert first == "| hosts | 16 | rayhpc | 20.0 | 1.3 | 4.57 | 81 | 6.0 |"
    assert second == "| hosts | 16 | symmetric-run | 60.0 | not ended: 7 processes | 5.00 | 80 | 5.5 |"


def test_the_rayhpc_of_scale_waits_as_long_as_the_others(tmp_path: Path) -> None:
    words = scale.patient(900.0).argv(places.OneHost(64), tmp_path, ["driver"])
    assert words[words.index("rayhpc.start") + 1] == "--timeout=900"
    assert words[-1] == "driver"


def test_each_environment_is_compared_with_rayhpc_in_the_same_one() -> None:
    table = report.rows([
        sample("rayhpc", 0, 3.0), sample("rayhpc with ray[default]", 0, 4.0),
        sample("by hand", 0, 6.0), sample("by hand with ray[default]", 0, 16.0),
    ])  # fmt: skip
    parts = {row.contender: spread.median for row in table if (spread := row.ratios["first_task"])}
    expected = {"rayhpc": 1.0, "rayhpc with ray[default]": 0.75, "by hand": 0.5, "by hand with ray[default]": 0.25}
    assert parts == expected


def test_the_other_environments_programs(tmp_path: Path) -> None:
    """Its Python, its mpirun, and its `ray`, which is found on PATH."""
    plain = contenders.RAYHPC.argv(places.OneHost(2), tmp_path, ["driver"])
    other = contenders.with_default(contenders.RAYHPC).argv(places.OneHost(2), tmp_path, ["driver"])
    there = str(places.REPOSITORY / ".venv-dashboard/bin")
    assert other[1].startswith(f"PATH={there}:")
    assert [word.replace(str(Path(sys.executable).parent), there) for word in plain] == other[2:]
    assert f"{there}/python" in other or f"{there}/{Path(sys.executable).name}" in other


def test_the_readmes_picture_can_be_read() -> None:
    """Its figures are the table's; no label lies over a bar of another or over another label; the scale is named."""
    table = picture.rows((places.REPOSITORY / "docs" / "performance.md").read_text())
    assert {row.nodes for row in table} >= {1, 4}
    figure = plots.picture(table, "hosts")
    figure.canvas.draw()
    for panel in figure.axes:
        assert "logarithmic" in panel.get_ylabel()
        boxes = [label.get_window_extent().padded(1) for label in panel.texts]
        bars = [bar.get_window_extent() for container in panel.containers for bar in getattr(container, "patches", ())]
        assert len(boxes) == len(bars) > 8
        assert not [(a, b) for a in boxes for b in boxes if a is not b and a.overlaps(b)]
        assert not [(box, bar) for box in boxes for bar in bars if box.shrunk(0.9, 0.9).overlaps(bar)]
        assert all(panel.get_window_extent().containsy(box.y1) for box in boxes)
