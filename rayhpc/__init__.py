"""Ray clusters inside batch jobs: start one on the allocation, run a driver on it, shut everything down."""

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rayhpc.driver_api import address, deadline, nodes, restarts, run_dir, time_left

__all__ = ["address", "deadline", "nodes", "restarts", "run_dir", "time_left"]
__version__ = "0.1.0"

_OWN_MODULES = ("rayhpc", "rayhpc.__main__", "rayhpc.start")


def _is_main() -> bool:
    """Whether Python is looking for a module of ours because of `python -m`, and has the working directory first."""
    safe = getattr(sys.flags, "safe_path", False)
    return sys.argv[:1] == ["-m"] and not safe and sys.orig_argv[-len(sys.argv)].removeprefix("-m") in _OWN_MODULES


# A random.py or click.py beside the job would be imported in the place of the module that is meant. The driver is
# another process, with its own path.
if _is_main():
    del sys.path[0]


def __getattr__(name: str) -> object:
    """What a driver may ask (driver_api), imported when it is first asked: a rank's start does without."""
    if name not in __all__:
        raise AttributeError(f"module 'rayhpc' has no attribute {name!r}")
    from rayhpc import driver_api

    return getattr(driver_api, name)
