"""Each option of `rayhpc kube manifest` is where KubeRay looks for it, and what nobody says is safe."""

from __future__ import annotations

import functools
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner

from rayhpc.cli.kube.commands import kube
from rayhpc.examples import train_ppo
from rayhpc.kube import manifest
from tests.unit.kube.page import on_the_page

IMAGE = "lab/ray:2.60.0"
SPEC, HEAD, WORKER = "spec", "spec.headGroupSpec.template.spec", "spec.workerGroupSpecs.0.template.spec"
LIMITS = "containers.0.resources.limits"
# option: (what is typed, where it is then, and as what)
CASES: dict[str, tuple[str, str, Any]] = {
    "name": ("--name b", "metadata.name", "b"),
    "clusters": ("--clusters 2 --name b", "metadata.name", "b-0"),
    "image": ("--image me/ray:2.60.0", f"{WORKER}.containers.0.image", "me/ray:2.60.0"),
    "ray_version": ("--image me/ray:latest --ray-version 2.59.1", f"{SPEC}.rayVersion", "2.59.1"),
    "workers": ("--workers 3:5", f"{SPEC}.workerGroupSpecs.0.maxReplicas", 5),
    "cpus": ("--cpus 3.5", f"{WORKER}.{LIMITS}.cpu", "3500m"),
    "memory": ("--memory 12G", f"{WORKER}.{LIMITS}.memory", "12288Mi"),
    "gpus": ("--gpus 2 --accelerator kind=l4", f"{WORKER}.{LIMITS}", {
        "cpu": "2000m", "memory": "8192Mi", "nvidia.com/gpu": "2"}),
    "accelerator": ("--accelerator kind=l4", f"{WORKER}.nodeSelector", {"kind": "l4"}),
    "group": ("--workers 1 --group big=workers=2,cpus=8,memory=32G", f"{SPEC}.workerGroupSpecs.1.replicas", 2),
    "head_cpus": ("--head-cpus 1", f"{HEAD}.{LIMITS}.cpu", "1000m"),
    "head_memory": ("--head-memory 4G", f"{HEAD}.{LIMITS}.memory", "4096Mi"),
    "head_no_tasks": ("--head-no-tasks", f"{SPEC}.headGroupSpec.rayStartParams.num-cpus", "0"),
    "autoscale": ("--workers 0:4 --autoscale", f"{SPEC}.enableInTreeAutoscaling", True),
    "service_account": ("--service-account me", f"{WORKER}.serviceAccountName", "me"),
    "image_pull_secret": ("--image-pull-secret pull", f"{HEAD}.imagePullSecrets", [{"name": "pull"}]),
    "pvc": ("--pvc results:/results", f"{WORKER}.containers.0.volumeMounts.1", {
        "name": "claim-0", "mountPath": "/results"}),
    "env": ("--env A=b=c", f"{HEAD}.containers.0.env", [{"name": "A", "value": "b=c"}]),
    "not_secret": ("--env MY_KEY=1 --not-secret MY_KEY", f"{HEAD}.containers.0.env.0.name", "MY_KEY"),
    "env_from": ("--env-from keys", f"{WORKER}.containers.0.envFrom", [{"secretRef": {"name": "keys"}}]),
    "mlflow": ("--mlflow http://m:5000", f"{WORKER}.containers.0.env.0", {
        "name": "MLFLOW_TRACKING_URI", "value": "http://m:5000"}),
    "queue": ("--queue team", "metadata.labels", {
        "app.kubernetes.io/managed-by": "rayhpc", "ray.io/user": "ada", "kueue.x-k8s.io/queue-name": "team"}),
    "user_id": ("--user-id 1234", f"{HEAD}.securityContext.runAsUser", 1234),
    "set": ("--set spec.autoscalerOptions.idleTimeoutSeconds=300", f"{SPEC}.autoscalerOptions.idleTimeoutSeconds", 300),
    "base": ("-f SITE", f"{HEAD}.priorityClassName", "low"),
    "namespace": ("-n lab", "metadata.namespace", "lab"),
    "context": ("--context other", "metadata.name", "ray-ada"),  # kubectl's own
    "ttl": ("--ttl 30 -- train.py", f"{SPEC}.ttlSecondsAfterFinished", 30),
    "time": ("--time 01:00:00 -- train.py", f"{SPEC}.activeDeadlineSeconds", 3600),
}  # fmt: skip


def printed(*words: str) -> list[dict[str, Any]]:
    """What `rayhpc kube manifest` prints; any document that it prints is read back whole."""
    done = CliRunner().invoke(kube, ["manifest", *words])
    assert done.exit_code == 0, done.output
    return list(yaml.safe_load_all(done.stdout))


def at(document: Any, path: str) -> Any:
    return functools.reduce(lambda place, word: place[int(word) if word.isdigit() else word], path.split("."), document)


@pytest.fixture(autouse=True)
def _account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayhpc.records.registry.account", lambda: "ada")


@pytest.mark.parametrize("name", CASES)
def test_an_option_is_where_kuberay_looks_for_it(name: str, tmp_path: Path) -> None:
    words, path, value = CASES[name]
    site = {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": {"name": "site"}, "spec": {
        "headGroupSpec": {"rayStartParams": {}, "template": {"spec": {"priorityClassName": "low", "containers": [
            {"name": "ray", "image": IMAGE}]}}}}}  # fmt: skip
    (tmp_path / "site.yaml").write_text(manifest.text([site]))
    typed = words.replace("SITE", str(tmp_path / "site.yaml")).split()
    documents = printed(*([] if "--image" in typed else ["--image", IMAGE]), *typed)
    assert at(documents[0], path) == value


def test_every_option_has_a_case() -> None:
    (command,) = [each for name, each in kube.commands.items() if name == "manifest"]
    options = {each.name for each in command.params if isinstance(each, click.Option)}
    assert options == {*CASES}


def test_what_nobody_says_is_safe() -> None:
    (document,) = printed("--image", "rayproject/ray:2.60.0")
    spec = document["spec"]
    assert (spec["authOptions"], spec["headGroupSpec"]["serviceType"]) == ({"mode": "token"}, "ClusterIP")
    for pod in (at(document, HEAD), at(document, WORKER)):
        (container,) = pod["containers"]
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert pod["volumes"] == [{"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "4096Mi"}}]
        assert container["volumeMounts"] == [{"name": "shm", "mountPath": "/dev/shm"}]
        assert pod["securityContext"] == {
            "runAsNonRoot": True, "runAsUser": 1000, "fsGroup": 100, "seccompProfile": {"type": "RuntimeDefault"},
        }  # fmt: skip
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]},
        }  # fmt: skip
        assert pod["automountServiceAccountToken"] is False
    assert document["metadata"]["labels"] == {"app.kubernetes.io/managed-by": "rayhpc", "ray.io/user": "ada"}


def test_a_job_ends_and_gives_its_cluster_back() -> None:
    (document,) = printed("--image", IMAGE, "--", "train.py", "--lr", "3e-4")
    spec = document["spec"]
    spec.pop("rayClusterSpec")
    assert (document["kind"], spec) == ("RayJob", {
        "submissionMode": "InteractiveMode", "entrypoint": "python train.py --lr 3e-4",
        "shutdownAfterJobFinishes": True, "ttlSecondsAfterFinished": 60, "activeDeadlineSeconds": 86400,
        "backoffLimit": 0,
    })  # fmt: skip


def test_the_page_s_job_is_a_training() -> None:
    words = on_the_page("kube", "job")[2:]
    (document,) = printed(*words)
    driver = words[words.index("--") + 1 :]
    assert document["spec"]["entrypoint"] == shlex.join(driver)
    assert driver[:3] == ["python", "-m", "rayhpc.examples.train_ppo"]
    assert train_ppo.read(driver[3:]).env == "CartPole-v1"


@pytest.mark.parametrize(
    "words",
    [
        ("manifest", "--image", IMAGE, "--time", "0.5", "--", "train.py"),
        ("job", "--image", IMAGE),
        ("scale", "a", "four"),
        ("delete",),
        ("delete", "a", "--prefix", "b"),
    ],
)
def test_a_wrong_command_line_ends_before_kubectl_is_asked(words: tuple[str, ...], monkeypatch: Any) -> None:
    monkeypatch.setenv("PATH", "")
    done = CliRunner().invoke(kube, words)
    assert (done.exit_code, "next: " in done.output) == (2, True), done.output
