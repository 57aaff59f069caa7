"""The options of `rayhpc kube`, and what is read from them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import click

from rayhpc.kube import manifest
from rayhpc.kube.kubectl import Kubectl
from rayhpc.records import registry
from rayhpc.user_input.secret_names import RULE

F = TypeVar("F", bound=Callable[..., Any])
TIMEOUT = click.option("--timeout", default=600.0, type=click.FloatRange(0), metavar="S", show_default=True,
                       help="Seconds until the pods must be there.")  # fmt: skip
OUTPUT = click.option("--output", default="", metavar="FILE", help="Keep the addresses in FILE, as ~/.ray_address.")
NAMES = click.argument("names", nargs=-1)
NAME = click.argument("name")
PLACE = (
    click.option("-n", "--namespace", default="", help="Of Kubernetes.  [default: kubectl's]"),
    click.option("--context", default="", help="Of kubectl's configuration.  [default: its current one]"),
)
_many = functools.partial(click.option, multiple=True)
CLUSTER = (
    click.option("--name", default=lambda: f"ray-{manifest.owner_label(registry.account()).lower()}", metavar="NAME",
                 help="[default: ray- and your account]"),
    click.option("--image", default="", help="With Ray in it, as rayproject/ray:2.60.0-py312-gpu."),
    click.option("--ray-version", default="", metavar="X.Y.Z", help="In the image.  [default: by its tag]"),
    click.option("--workers", default="", metavar="N|MIN:MAX", help="Number of worker pods.  [default: 1]"),
    click.option("--cpus", default=2.0, show_default=True, help="CPUs of a worker."),
    click.option("--memory", default="8G", show_default=True, metavar="SIZE", help="Memory of a worker."),
    click.option("--gpus", default=0, help="GPUs of a worker; needs --accelerator."),
    click.option("--accelerator", default="", metavar="KEY=VALUE", help="Label of the nodes for the workers."),
    _many("--group", metavar="NAME=...", help="Another kind: gpu=workers=0:4,gpus=1,accelerator=KEY=VALUE,memory=32G."),
    click.option("--head-cpus", default=2.0, show_default=True, help="CPUs of the head."),
    click.option("--head-memory", default="8G", show_default=True, metavar="SIZE", help="Memory of the head."),
    click.option("--head-no-tasks", is_flag=True, help="Run no tasks on the head."),
    click.option("--autoscale", is_flag=True, help="Let Ray add and remove workers between MIN and MAX."),
    click.option("--service-account", default="", metavar="NAME", help="Of the pods."),
    click.option("--image-pull-secret", default="", metavar="NAME", help="For a private registry."),
    _many("--pvc", metavar="NAME:PATH", help="Mount a volume claim in all pods."),
    _many("--env", metavar="NAME=VALUE", help="A variable in all pods; it is no secret there."),
    _many("--not-secret", metavar="NAME", help=f"For --env, though its name is as {RULE}."),
    _many("--env-from", metavar="SECRET", help="All keys of a Kubernetes secret as variables."),
    click.option("--mlflow", default="", metavar="URL", help="Sets MLFLOW_TRACKING_URI."),
    click.option("--queue", default="", metavar="NAME", help="Wait in this queue of Kueue."),
    click.option("--user-id", default=None, type=int, metavar="UID",
                 help="Account in the image.  [default: 1000 for rayproject/ray, else the image's]"),
    _many("--set", metavar="PATH=VALUE", help="Any other field: spec.workerGroupSpecs.0.idleTimeoutSeconds=300."),
    click.option("-f", "--file", "base", default="", metavar="FILE", help="Start from the site's own document."),
    *PLACE,
)  # fmt: skip
CLUSTERS = click.option("--clusters", default=0, type=click.IntRange(0), metavar="N",
                        help="Several: NAME-0, NAME-1, ...")  # fmt: skip
JOB = (
    click.option("--ttl", default=60, type=click.IntRange(20), metavar="S", show_default=True,
                 help="Seconds that a job's cluster stays after the end: the last lines of the log are read then."),
    click.option("--time", default="24:00:00", metavar="TIME", show_default=True, help="The job ends after that."),
)  # fmt: skip


def with_options(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Several options at once."""
    return lambda command: functools.reduce(lambda made, option: option(made), reversed(options), command)


def kubectl_of(said: dict[str, Any]) -> Kubectl:
    """Where the options say."""
    return Kubectl(said["context"], said["namespace"])
