"""What `lab view` writes and says; checkpoints are viewed in tests/cluster/test_lab.py."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy
import pytest

from rayhpc.lab.settings import settings_of
from rayhpc.lab.video import recorder_of
from rayhpc.lab.view import Film, figures, writer_for
from rayhpc.rllib.errors import UsageError

FRAMES = [numpy.full((64, 96, 3), shade, numpy.uint8) for shade in (0, 0, 120, 250)]
SEEN = Film([10.0, 20.0, 30.0], [1, 1, 2], FRAMES, 25.0)


def test_a_gif_has_a_frame_for_each_step_also_for_equal_ones(tmp_path: Path) -> None:
    from PIL import Image

    writer_for(Path("film.gif"))(SEEN, tmp_path / "film.gif")
    with Image.open(tmp_path / "film.gif") as film:
        assert film.n_frames == 4
        assert film.info["duration"] == 40


def test_an_mp4_has_them_too(tmp_path: Path) -> None:
    from imageio_ffmpeg import count_frames_and_secs

    writer_for(Path("film.mp4"))(SEEN, tmp_path / "film.mp4")
    frames, _ = count_frames_and_secs(str(tmp_path / "film.mp4"))
    assert frames == 4


def test_other_endings_and_a_missing_library_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"film.avi: .gif or .mp4 is wanted"):
        writer_for(Path("film.avi"))
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(UsageError, match=r"pip install imageio-ffmpeg, or ask for a .gif"):
        writer_for(Path("film.mp4"))


def test_the_mean_comes_with_its_interval() -> None:
    lines = figures(SEEN).splitlines()
    assert lines[0] == "episode 1: return 10.0, 1 steps"
    assert lines[-1] == "mean return 20.0 +- 24.8 (95 %) over 3 episodes"
    assert figures(Film([10.0], [1])).splitlines()[-1] == "mean return 10.0 over 1 episode"


@pytest.mark.parametrize(
    ("video", "said"), [("always", "write 'every 10'"), ("every 0", "write"), ("every 15", "a multiple of checkpoint")]
)
def test_a_video_that_cannot_be_recorded(video: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        recorder_of(settings_of({"algo": "PPO", "env": "CartPole-v1", "run": {"video": video}}))
