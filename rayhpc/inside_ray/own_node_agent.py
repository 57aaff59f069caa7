"""The dashboard's agent of a node, held to that node: PROGRAM ARGUMENTS..., the command that Ray would have run.

Ray's agent reads the log of a job in the directory of the node to which ray.init() attaches it. That is any node of its
host, the head first (2.60): where a host has several, the output of a job is not found. A program that is run by its
path: it imports nothing of ours.
"""

from __future__ import annotations

import os
import runpy
import sys


def main(arguments: list[str]) -> None:
    """Become the program, for which this node is the only one of the host."""
    ours = os.path.dirname(__file__)  # noqa: PTH120 - as Python writes it
    sys.path[:] = [os.path.dirname(arguments[0]) if entry == ours else entry for entry in sys.path]  # noqa: PTH120
    from ray._private import services

    own = os.environ["RAY_NODE_ID"]
    services.find_node_ids = lambda: {own}
    sys.argv = arguments
    runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
