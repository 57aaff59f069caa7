"""The dashboard's agent knows no node of its host but its own, and is Ray's program in all else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from rayhpc.inside_ray import own_node_agent

PROGRAM = """
import json, sys
import beside
from ray._private import services
print(json.dumps([sorted(services.find_node_ids()), sys.argv, __name__]))
"""


def test_its_own_node_is_the_only_one(tmp_path: Path) -> None:
    program = tmp_path / "agent.py"
    program.write_text(PROGRAM)
    (tmp_path / "beside.py").write_text("")
    argv = [sys.executable, "-u", own_node_agent.__file__, str(program), "--listen-port=7"]
    environ = {**os.environ, "RAY_NODE_ID": "ab12"}
    done = subprocess.run(argv, env=environ, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [["ab12"], [str(program), "--listen-port=7"], "__main__"]
