"""`rayhpc kube …`: all of its commands."""

from __future__ import annotations

import click

from rayhpc.cli.base import Told
from rayhpc.cli.kube import change, job, see, start


@click.group("kube", cls=Told, context_settings={"max_content_width": 100})
def kube() -> None:
    """Ray clusters on Kubernetes, through kubectl and the KubeRay operator. Once up: rayhpc cluster, rayhpc job."""


for command in (*start.COMMANDS, *see.COMMANDS, *change.COMMANDS, job.run_job):
    kube.add_command(command)
