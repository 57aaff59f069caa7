"""The example's parts that need no Ray: its decisions, its files, and its training loop with a stand-in algorithm."""

from __future__ import annotations

import importlib.util
import itertools
import json
import math
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

EXAMPLE = Path(__file__).parents[3] / "examples" / "train_ppo.py"
NAN = math.nan
SIGNALS = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_ppo", EXAMPLE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["train_ppo"] = module
    spec.loader.exec_module(module)
    return module


ppo = load()


def options(*arguments: str) -> ppo.Options:
    return ppo.build_parser().parse_args(arguments, namespace=ppo.Options())


def row(iteration: int, *, mean: float = 100.0, episodes: int = 1000, seconds: float | None = None) -> ppo.Row:
    ended = 2.0 * iteration if seconds is None else seconds
    return ppo.Row(iteration, 4000 * iteration, episodes, ended, mean, mean - 1, mean + 1, 2000.0)


def manifest(iteration: int, env: str = "CartPole-v1") -> ppo.Manifest:
    return ppo.Manifest(env, iteration, 4000 * iteration, 2.0 * iteration, [100.0] * 100)


def save_to(path: str) -> None:
    Path(path).mkdir()
    (Path(path) / "state.pkl").write_bytes(b"weights")


def make_checkpoint(folder: Path, iteration: int, env: str = "CartPole-v1") -> ppo.Checkpoint:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [row(number) for number in range(1, iteration + 1)]
    return ppo.write_checkpoint(folder, manifest(iteration, env), rows, save_to)


def iterations_in(folder: Path) -> list[int]:
    return [checkpoint.manifest.iteration for checkpoint in ppo.checkpoints_in(folder)]


@pytest.fixture
def signals() -> Iterator[ppo.Signals]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield ppo.Signals()
    for number, handler in before.items():
        signal.signal(number, handler)


def test_signals_are_caught_before_anything_slow_is_imported() -> None:
    script = "import sys, train_ppo; sys.exit(bool({'ray', 'torch', 'numpy', 'gymnasium'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-B", "-c", script], cwd=EXAMPLE.parent, check=False).returncode == 0


# ---- the command line


def test_defaults_train_cartpole_to_450() -> None:
    chosen = options()
    assert (chosen.env, chosen.stop_iterations, chosen.seed) == ("CartPole-v1", 200, 0)
    assert ppo.STOP_RETURNS["CartPole-v1"] == 450
    assert (chosen.resume, chosen.ray_address, chosen.output, chosen.num_env_runners) == (None, None, None, None)


def test_every_option_has_a_flag_and_every_flag_an_option() -> None:
    assert set(vars(options())) == set(ppo.Options.__annotations__)


@pytest.mark.parametrize(
    "arguments",
    [["--lr", "0"], ["--lr", "inf"], ["--epochs", "0"], ["--num-env-runners", "-1"], ["--keep", "0"], ["--seed", "x"]],
)
def test_a_senseless_number_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refusal:
        options(*arguments)
    assert refusal.value.code == 2
    assert arguments[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "resume"),
    [([], None), (["--resume"], ""), (["--resume", "a/checkpoint-000010"], "a/checkpoint-000010")],
)
def test_resume_takes_a_path_or_none(arguments: list[str], resume: str | None) -> None:
    assert options(*arguments).resume == resume


# ---- decisions


@pytest.mark.parametrize(
    ("arguments", "last", "reason"),
    [
        ([], row(1), None),
        ([], row(1, mean=450), "return"),
        ([], row(1, mean=500, episodes=99), None),
        ([], row(1, mean=NAN), None),
        ([], row(200), "iterations"),
        (["--stop-timesteps", "8000"], row(2), "timesteps"),
        (["--stop-timesteps", "8001"], row(2), None),
        (["--stop-minutes", "0.5"], row(15), "minutes"),
        (["--stop-minutes", "0.5"], row(14), None),
    ],
)
def test_stop_conditions(arguments: list[str], last: ppo.Row, reason: str | None) -> None:
    assert ppo.reached(options(*arguments), 450.0, [last]) == reason


def test_nothing_is_reached_before_training() -> None:
    assert ppo.reached(options(), 450.0, []) is None
    assert ppo.reached(options(), None, [row(1, mean=1e9)]) is None


@pytest.mark.parametrize(
    ("seconds", "left", "fits"),
    [
        ([], 16, True),
        ([], 14, False),
        ([10, 20, 30], 31, True),
        ([10, 20, 30], 29, False),
        ([10, 50, 60], 76, True),  # the longest of the three took 40 s
        ([10, 50, 60], 74, False),
        ([1000, *range(1001, 1011)], 17, True),  # a slow first iteration, eleven ago, is forgotten
    ],
)
def test_the_next_iteration_must_fit_before_the_deadline(seconds: list[float], left: float, fits: bool) -> None:
    rows = [row(number, seconds=ended) for number, ended in enumerate(seconds, 1)]
    assert ppo.next_iteration_fits(rows, 5000.0 + left, 5000.0, 0.0) is fits


def test_the_deadline_leaves_time_for_two_checkpoints() -> None:
    assert ppo.next_iteration_fits([], 36.0, 0.0, 10.0)
    assert not ppo.next_iteration_fits([], 34.0, 0.0, 10.0)
    assert ppo.next_iteration_fits([row(1)], None, 0.0, 1e9)


@pytest.mark.parametrize(
    ("reason", "best", "required", "code"),
    [
        ("return", 450, None, 0), ("iterations", 20, None, 0), ("iterations", 20, 100, 1), ("iterations", NAN, 100, 1),
        ("return", 450, 450, 0), ("minutes", 20, 20, 0), ("signal", 20, 100, 75), ("deadline", 500, 100, 75),
        ("interrupt", 20, 100, 130),
    ],
)  # fmt: skip
def test_exit_codes(reason: str, best: float, required: float | None, code: int) -> None:
    assert ppo.exit_code(reason, best, required) == code


@pytest.mark.parametrize(
    ("cpus", "wanted", "shares"),
    [
        ([1, 1, 1, 1], None, [0, 1, 1, 1]),
        ([1], None, [0]),
        ([2], None, [1]),
        ([2], 2, [2]),
        ([4, 4], None, [3, 4]),
        ([0, 4], None, [0, 4]),  # a head without CPUs
        ([4, 4, 4], 4, [1, 2, 1]),
        ([4, 4, 4], 2, [0, 1, 1]),
        ([4, 4], 0, [0, 0]),
        ([4, 1, 1], 4, [2, 1, 1]),
        ([64, 64, 64, 64], None, [7, 8, 8, 8]),  # as many as the batch has work for
        ([], None, []),
    ],
)
def test_env_runners_are_spread(cpus: list[int], wanted: int | None, shares: list[int]) -> None:
    assert ppo.env_runner_shares(cpus, wanted, most=31) == shares


def test_more_env_runners_than_cpus_would_wait_for_ever() -> None:
    with pytest.raises(ppo.UsageError, match="the cluster has 4 CPUs"):
        ppo.env_runner_shares([1, 1, 1, 1], 5, most=31)


def test_the_best_return_is_that_of_a_full_window() -> None:
    rows = [row(1, mean=900, episodes=99), row(2, mean=300, episodes=120), row(3, mean=200)]
    assert ppo.best_return(rows) == 300
    assert math.isnan(ppo.best_return(rows[:1]))


def test_parts_of_an_episode_are_summed_up() -> None:
    logged: list[float] = []
    metrics = SimpleNamespace(log_value=lambda _key, value, **_: logged.append(value))
    log = ppo.episode_returns_logger()

    def part(name: str, reward: float, done: bool) -> SimpleNamespace:
        return SimpleNamespace(id_=name, is_done=done, get_return=lambda: reward)

    log(samples=[part("a", 5, False), part("b", 1, True)], metrics_logger=metrics, env_runner=None)
    log(samples=[part("a", 7, False), part("c", 2, True)], metrics_logger=metrics)
    log(samples=[part("a", 1, True)], metrics_logger=metrics)
    assert logged == [1, 2, 13]


# ---- files


def test_metrics_survive_a_round_trip(tmp_path: Path) -> None:
    rows = [replace(row(1, mean=NAN), episodes=0), row(2, mean=123.456789)]
    (tmp_path / "metrics.csv").write_text(ppo.CSV_HEADER + ppo.csv_lines(rows))
    assert ",,," in (tmp_path / "metrics.csv").read_text()
    first, second = ppo.read_metrics(tmp_path / "metrics.csv")
    assert math.isnan(first.return_mean)
    assert second == rows[1]


def test_a_checkpoint_is_found_again(tmp_path: Path) -> None:
    written = make_checkpoint(tmp_path, 12)
    assert written.path.name == "checkpoint-000012"
    assert ppo.newest_checkpoint(tmp_path) == written == ppo.checkpoint_at(written.path)
    assert ppo.read_metrics(written.path / "metrics.csv") == [row(number) for number in range(1, 13)]
    assert (written.path / "algorithm" / "state.pkl").read_bytes() == b"weights"


def test_the_newest_is_the_one_with_most_iterations(tmp_path: Path) -> None:
    for iteration in (1_000_000, 999_999, 5):
        make_checkpoint(tmp_path, 1)
        (tmp_path / "checkpoint-000001").rename(tmp_path / f"checkpoint-{iteration:06d}")
        changed = json.loads((tmp_path / f"checkpoint-{iteration:06d}" / "manifest.json").read_text())
        (tmp_path / f"checkpoint-{iteration:06d}" / "manifest.json").write_text(
            json.dumps({**changed, "iteration": iteration})
        )
    assert iterations_in(tmp_path) == [5, 999_999, 1_000_000]


@pytest.mark.parametrize("content", [None, "", "{", "[]", "{}", '{"iteration": 3}'])
def test_without_a_good_manifest_it_is_no_checkpoint(tmp_path: Path, content: str | None) -> None:
    make_checkpoint(tmp_path, 2)
    broken = make_checkpoint(tmp_path, 3).path / "manifest.json"
    broken.unlink()
    if content is not None:
        broken.write_text(content)
    assert iterations_in(tmp_path) == [2]
    assert ppo.checkpoint_at(broken.parent) is None


def test_a_directory_of_the_user_is_left_alone(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, 3).path.rename(tmp_path / "checkpoint-best")
    assert iterations_in(tmp_path) == []


KILLS = {
    "while RLlib writes": "save_to = lambda path: (Path(path).mkdir(), kill())",
    "before the manifest": "ppo.json_text = lambda _: kill()",
    "between the files": "ppo.flush = lambda _: kill()",
    "before it gets its name": "Path.rename = lambda *_: kill()",
    "while an old one is deleted": "ppo.shutil.rmtree = lambda path: ((path / 'algorithm/state.pkl').unlink(), kill())",
}


@pytest.mark.parametrize("patch", KILLS.values(), ids=KILLS.keys())
def test_sigkill_leaves_only_whole_checkpoints(tmp_path: Path, patch: str) -> None:
    make_checkpoint(tmp_path, 1)
    make_checkpoint(tmp_path, 2)
    script = f"""
        import os, signal, sys
        from pathlib import Path
        sys.path.insert(0, {str(EXAMPLE.parent)!r})
        import train_ppo as ppo
        def kill(): os.kill(os.getpid(), signal.SIGKILL)
        def save_to(path): Path(path).mkdir(); Path(path, "state.pkl").write_bytes(b"weights")
        folder, rows = Path({str(tmp_path)!r}), [ppo.Row(n, n, 1, 1.0, 1.0, 1.0, 1.0, 1.0) for n in (1, 2, 3)]
        {patch}
        ppo.write_checkpoint(folder, ppo.Manifest("CartPole-v1", 3, 3, 3.0, []), rows, save_to)
        ppo.delete_checkpoint(folder / "checkpoint-000001")
    """
    ended = subprocess.run([sys.executable, "-B", "-c", textwrap.dedent(script)], check=False)
    assert ended.returncode == -signal.SIGKILL
    for checkpoint in ppo.checkpoints_in(tmp_path):
        assert (checkpoint.path / "algorithm" / "state.pkl").exists()
        assert len(ppo.read_metrics(checkpoint.path / "metrics.csv")) == checkpoint.manifest.iteration
    assert 2 in iterations_in(tmp_path)
    leftovers = list(tmp_path.glob(".partial-*"))
    assert leftovers
    assert all(ppo.checkpoint_at(path) is None for path in leftovers)
    ppo.make_ready(tmp_path, [], keep_checkpoints=True)
    assert not list(tmp_path.glob(".partial-*"))
    assert 2 in iterations_in(tmp_path)


def test_an_incomplete_directory_does_not_block_its_name(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-000003" / "algorithm").mkdir(parents=True)
    make_checkpoint(tmp_path, 3)
    assert iterations_in(tmp_path) == [3]


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text("old")
    ppo.write_whole(path, b"new")
    assert [item.name for item in tmp_path.iterdir()] == ["result.json"]
    assert path.read_text() == "new"


# ---- where training starts


def start(*arguments: str) -> tuple[Path, int | None]:
    output, checkpoint = ppo.place_and_start(options(*arguments))
    return output, checkpoint.manifest.iteration if checkpoint else None


def test_a_fresh_start(tmp_path: Path) -> None:
    assert start("--output", f"{tmp_path}/new") == (tmp_path / "new", None)
    assert start("--output", f"{tmp_path}/new", "--resume") == (tmp_path / "new", None)


def test_resuming_takes_the_newest_complete_checkpoint(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, 10)
    newest = make_checkpoint(tmp_path, 20).path
    (make_checkpoint(tmp_path, 30).path / "manifest.json").unlink()
    assert start("--output", str(tmp_path), "--resume") == (tmp_path, 20)
    assert start("--resume", str(tmp_path)) == (tmp_path, 20)
    assert start("--resume", str(newest)) == (tmp_path, 20)
    assert start("--resume", str(newest), "--output", f"{tmp_path}/branch") == (tmp_path / "branch", 20)
    assert start("--output", str(tmp_path), "--overwrite") == (tmp_path, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "{0}/old"], "checkpoints of an earlier run"),
        (["--output", "{0}/old", "--resume", "{0}/other"], "checkpoints of an earlier run"),
        (["--output", "{0}/old", "--resume", "--overwrite"], "would delete what --resume needs"),
        (["--output", "{0}/old", "--resume", "{0}/old/checkpoint-000010"], "is newer than"),
        (["--output", "{0}/old", "--resume", "--env", "Acrobot-v1"], "was trained on --env CartPole-v1"),
        (["--resume", "{0}/nowhere"], "there is no complete checkpoint"),
        (["--resume", "{0}"], "there is no complete checkpoint"),
    ],
)
def test_two_trainings_are_never_mixed(tmp_path: Path, arguments: list[str], message: str) -> None:
    make_checkpoint(tmp_path / "old", 10)
    make_checkpoint(tmp_path / "old", 20)
    make_checkpoint(tmp_path / "other", 30)
    with pytest.raises(ppo.UsageError, match=message):
        start(*(argument.format(tmp_path) for argument in arguments))


def test_by_default_each_fresh_run_has_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = Path("ppo-results/CartPole-v1"), Path("ppo-results/CartPole-v1-run2")
    assert start() == start("--resume") == (first, None)
    make_checkpoint(first, 10)
    assert start() == (second, None)
    assert start("--resume") == (first, 10)
    make_checkpoint(second, 5)
    assert start() == (Path("ppo-results/CartPole-v1-run3"), None)
    assert start("--resume") == (second, 5)
    assert start("--overwrite") == (first, None)
    assert start("--env", "ALE/Pong v5") == (Path("ppo-results/ALE-Pong-v5"), None)


def test_making_ready_rewinds_the_metrics(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, 2)
    (tmp_path / "metrics.csv").write_text("of an iteration after the checkpoint")
    (tmp_path / "result.json").write_text("of the run before")
    ppo.make_ready(tmp_path, [row(1), row(2)], keep_checkpoints=True)
    assert ppo.read_metrics(tmp_path / "metrics.csv") == [row(1), row(2)]
    assert not (tmp_path / "result.json").exists()
    assert iterations_in(tmp_path) == [2]
    ppo.make_ready(tmp_path, [], keep_checkpoints=False)
    assert iterations_in(tmp_path) == []


def test_an_output_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ppo.UsageError, match="--output"):
        ppo.make_ready(tmp_path / "file", [], keep_checkpoints=False)
    with pytest.raises(ppo.UsageError, match="--output"):
        ppo.make_ready(tmp_path / "file" / "below", [], keep_checkpoints=False)


def test_the_deadline_is_read_from_the_environment() -> None:
    assert ppo.deadline_in({}) is None
    assert ppo.deadline_in({"RAYHPC_DEADLINE": ""}) is None
    assert ppo.deadline_in({"RAYHPC_DEADLINE": "1750000000"}) == 1_750_000_000
    with pytest.raises(ppo.UsageError, match="soon"):
        ppo.deadline_in({"RAYHPC_DEADLINE": "soon"})


def test_an_address_where_nobody_listens_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        ppo.check_reachable(address)
    with pytest.raises(ppo.UsageError, match=address):
        ppo.check_reachable(address)
    for other in ("", "auto", "local", "ray://head:10001"):
        ppo.check_reachable(other)


# ---- signals


@pytest.mark.parametrize(
    ("number", "reason"), [(signal.SIGUSR1, "signal"), (signal.SIGTERM, "signal"), (signal.SIGINT, "interrupt")]
)
def test_a_signal_interrupts_the_set_up_once(signals: ppo.Signals, number: signal.Signals, reason: str) -> None:
    signals.install()
    assert signals.reason is None
    signals.check()
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), number)
    assert signals.reason == reason
    os.kill(os.getpid(), signal.SIGINT)
    assert (signals.first, signals.reason) == (number, reason)
    with pytest.raises(KeyboardInterrupt):
        signals.check()


def test_a_signal_waits_for_the_iteration(signals: ppo.Signals) -> None:
    signals.install()
    signals.defer()
    os.kill(os.getpid(), signal.SIGUSR1)
    os.kill(os.getpid(), signal.SIGINT)
    assert signals.first == signal.SIGUSR1


# ---- the loop, with an algorithm that only counts


class Counting:
    """An algorithm whose returns grow by ten each iteration; `at` has something happen in the middle of one."""

    def __init__(self, at: dict[int, Callable[[], object]] | None = None, *, done: int = 0, lost: int = 0) -> None:
        self.iteration = done
        self.at = at or {}
        self.lost = lost

    def train(self) -> dict[str, dict[str, object]]:
        if self.lost:
            self.lost -= 1
            return {"env_runners": {"num_env_steps_sampled": NAN}}
        self.iteration += 1
        self.at.get(self.iteration, lambda: None)()
        returns = [10.0 * self.iteration] * 100
        return {"env_runners": {"num_env_steps_sampled": 4000, "episode_returns": returns}}

    def save_to_path(self, path: str) -> None:
        save_to(path)


def training(output: Path, signals: ppo.Signals, *arguments: str) -> ppo.Training:
    chosen = options("--output", str(output), *arguments)
    where, begin = ppo.place_and_start(chosen)
    rows = ppo.read_metrics(begin.path / "metrics.csv") if begin else []
    ppo.make_ready(where, rows, keep_checkpoints=begin is not None)
    returns = begin.manifest.last_returns if begin else []
    return ppo.Training(chosen, where, 450.0, None, signals, begin, rows, returns)


def test_training_stops_at_the_return_with_a_checkpoint(tmp_path: Path, signals: ppo.Signals) -> None:
    run = training(tmp_path, signals)
    assert ppo.train(run, Counting()) == "return"
    assert [one.iteration for one in ppo.read_metrics(tmp_path / "metrics.csv")] == list(range(1, 46))
    assert iterations_in(tmp_path) == [30, 40, 45]
    assert (run.rows[-1].timesteps, run.rows[-1].episodes, run.rows[-1].return_mean) == (180_000, 4500, 450)


def test_a_signal_ends_training_after_the_iteration(
    tmp_path: Path, signals: ppo.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    signals.install()
    signals.defer()
    run = training(tmp_path, signals, "--keep", "1")
    algorithm = Counting({13: lambda: os.kill(os.getpid(), signal.SIGUSR1)})
    assert ppo.train(run, algorithm) == "signal"
    assert iterations_in(tmp_path) == [13]
    assert "SIGUSR1" in capfd.readouterr().err


def test_reaching_the_goal_outranks_a_signal(tmp_path: Path, signals: ppo.Signals) -> None:
    signals.install()
    signals.defer()
    run = training(tmp_path, signals, "--stop-iterations", "5")
    assert ppo.train(run, Counting({5: lambda: os.kill(os.getpid(), signal.SIGTERM)})) == "iterations"


def test_a_resumed_run_has_no_gap_and_no_duplicate(tmp_path: Path, signals: ppo.Signals) -> None:
    crash = Counting({27: lambda: 1 / 0})
    with pytest.raises(ZeroDivisionError):
        ppo.train(training(tmp_path, signals), crash)
    assert iterations_in(tmp_path) == [10, 20]
    assert len(ppo.read_metrics(tmp_path / "metrics.csv")) == 26
    run = training(tmp_path, signals, "--resume")
    assert len(run.returns) == 100
    assert ppo.train(run, Counting(done=20)) == "return"
    rows = ppo.read_metrics(tmp_path / "metrics.csv")
    assert [one.iteration for one in rows] == list(range(1, 46))
    assert [one.timesteps for one in rows] == [4000 * number for number in range(1, 46)]
    assert all(before.seconds <= after.seconds for before, after in itertools.pairwise(rows))


def test_nothing_new_makes_no_checkpoint(tmp_path: Path, signals: ppo.Signals) -> None:
    signals.first = signal.SIGUSR1
    run = training(tmp_path, signals)
    assert ppo.train(run, Counting()) == "signal"
    assert (iterations_in(tmp_path), run.checkpoint) == ([], None)


def test_an_iteration_without_samples_does_not_count(tmp_path: Path, signals: ppo.Signals) -> None:
    run = training(tmp_path, signals, "--stop-iterations", "5")
    assert ppo.train(run, Counting(lost=3)) == "iterations"
    assert [one.iteration for one in run.rows] == [1, 2, 3, 4, 5]


def test_no_samples_for_long_is_a_failure(
    tmp_path: Path, signals: ppo.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ppo, "NO_SAMPLES_TIMEOUT_S", -1.0)
    with pytest.raises(RuntimeError, match="no env runner"):
        ppo.train(training(tmp_path, signals), Counting(lost=3))


def test_the_deadline_ends_training(tmp_path: Path, signals: ppo.Signals) -> None:
    run = training(tmp_path, signals)
    run.deadline = time.time() + ppo.DEADLINE_MARGIN_S + 60

    def pass_time() -> None:
        run.deadline = time.time() + ppo.DEADLINE_MARGIN_S

    assert ppo.train(run, Counting({7: pass_time})) == "deadline"
    assert iterations_in(tmp_path) == [7]


# ---- what the user sees


def test_the_learning_curve_is_a_picture(tmp_path: Path, signals: ppo.Signals) -> None:
    pytest.importorskip("matplotlib")
    run = training(tmp_path, signals)
    run.rows = [row(1, mean=NAN), row(2), row(3, mean=200)]
    assert ppo.learning_curve(run).startswith(b"\x89PNG")


def test_a_table_line_fits_under_its_head(tmp_path: Path, signals: ppo.Signals) -> None:
    run = training(tmp_path, signals)
    run.nodes = [{"env_runners": 0}, {"env_runners": 3}]
    opening = ppo.opening(run).splitlines()
    assert "env runners: 3 on 1 of 2 Ray nodes" in opening[0]
    assert len(ppo.table_line(row(12), NAN)) == len(opening[-1])
    assert ppo.table_line(row(12), NAN).split() == ["12", "48", "000", "100.0", "-", "2", "000", "0:00:24"]


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, signals: ppo.Signals) -> Path:
    """A directory of its own; main() finds no cluster and its handlers are taken back."""
    if missing := [name for name in ("gymnasium", "ray", "torch") if not importlib.util.find_spec(name)]:
        pytest.skip(f"needs {missing}")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RAYHPC_DEADLINE", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_deadline_in_the_past_asks_for_another_run(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_checkpoint(Path("ppo-results/CartPole-v1"), 20)
    monkeypatch.setenv("RAYHPC_DEADLINE", "1")
    assert ppo.main(["--resume"]) == 75
    result = json.loads((alone / "ppo-results/CartPole-v1/result.json").read_text())
    assert (result["stop_reason"], result["iterations"], result["timesteps"]) == ("deadline", 20, 80_000)
    assert result["checkpoint"].endswith("ppo-results/CartPole-v1/checkpoint-000020")


def test_a_finished_training_needs_no_cluster(alone: Path) -> None:
    make_checkpoint(alone, 20)
    assert ppo.main(["--output", str(alone), "--resume", "--stop-iterations", "20"]) == 0
    assert ppo.main(["--output", str(alone), "--resume", "--stop-iterations", "20", "--require-return", "101"]) == 1


def test_nothing_known_is_null(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYHPC_DEADLINE", "1")
    assert ppo.main([]) == 75
    result = json.loads((alone / "ppo-results/CartPole-v1/result.json").read_text())
    assert (result["best_return"], result["last_return"], result["checkpoint"]) == (None, None, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--env", "NoSuchEnvironment-v1"], "NoSuchEnvironment"),
        (["--env", "no_such_module:Thing-v0"], "no_such_module"),
        (["--minibatch-size", "4001"], "--minibatch-size"),
        (["--resume", "nowhere"], "no complete checkpoint"),
        (["--ray-address", "127.0.0.1:1"], "no Ray cluster"),
    ],
)
def test_what_cannot_work_is_said_at_once(
    alone: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ppo.main(arguments) == 2
    assert message in capsys.readouterr().err
    assert list(alone.iterdir()) == []
