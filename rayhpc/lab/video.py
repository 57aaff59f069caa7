"""`run.video: every 10`: films of checkpoints while it trains, by tasks that take no CPU from the env runners."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rayhpc.lab.settings import Settings
from rayhpc.lab.view import figures, film, found, write_gif
from rayhpc.rllib.errors import UsageError
from rayhpc.rllib.metrics import Row
from rayhpc.rllib.progress import say
from rayhpc.rllib.training import Training, Watcher

LAST_FILMS_S = 60.0


def recorder_of(settings: Settings) -> list[Watcher]:
    """The recorder that was asked for; UsageError where the wish is not understood or has no checkpoint to show."""
    if settings.run.video is None:
        return []
    match = re.fullmatch(r"every (\d+)", settings.run.video)
    if match is None or not int(match[1]):
        raise UsageError(f"run.video={settings.run.video}: write 'every 10'")
    if int(match[1]) % settings.checkpoint.every:
        raise UsageError(f"run.video={settings.run.video}: a multiple of checkpoint.every={settings.checkpoint.every}")
    return [_recorder(int(match[1]))]


def _recorder(every: int) -> Watcher:
    tasks: list[Any] = []

    def tell(training: Training, row: Row, _: Mapping[str, Any]) -> None:
        if row.iteration % every == 0 and training.checkpoint is not None:
            tasks.append(_begin(training.checkpoint.path.resolve(), training.output.resolve() / "videos"))

    def close() -> None:
        _await(tasks)

    return Watcher(tell, close)


def _begin(checkpoint: Path, folder: Path) -> Any:
    import ray

    task = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy="SPREAD")(record)
    return task.remote(checkpoint, folder)


def record(checkpoint: Path, folder: Path) -> str:
    """One episode of a checkpoint as a GIF in a folder; what it showed."""
    folder.mkdir(exist_ok=True)
    seen = film(found(checkpoint), 1, 0)
    out = folder / f"{checkpoint.name.replace('checkpoint', 'iteration')}.gif"
    write_gif(seen, out)
    return f"{out}: {figures(seen).splitlines()[0]}"


def _await(tasks: list[Any]) -> None:
    """Say what each film shows, or why there is none; those that take too long are left."""
    import ray
    from ray.exceptions import RayError

    done, late = ray.wait(tasks, num_returns=len(tasks), timeout=LAST_FILMS_S) if tasks else ([], [])
    for task in done:
        try:
            say(str(ray.get(task)))
        except RayError as problem:
            say(f"a film failed: {str(problem).strip().splitlines()[-1]}")
    if late:
        say(f"{len(late)} films were not ready after {LAST_FILMS_S:.0f} s")
