"""Every document that the options can make is one that KubeRay's CRDs and Kubernetes' own schemas take."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rayhpc.errors import RayhpcError
from rayhpc.kube import manifest, options, parse
from rayhpc.kube.options import Access, ClusterOptions, Group, JobOptions, Size
from tests.unit.kube.schemas import problems

SAID: dict[str, Any] = {
    "base": "", "name": "a", "clusters": 0, "image": "rayproject/ray:2.60.0", "ray_version": "", "workers": "",
    "cpus": 2.0, "memory": "8G", "gpus": 0, "accelerator": "", "group": (), "head_cpus": 2.0, "head_memory": "8G",
    "head_no_tasks": False, "autoscale": False, "service_account": "", "image_pull_secret": "", "pvc": (),
    "env": (), "not_secret": (), "env_from": (), "mlflow": "", "queue": "", "user_id": None, "set": (),
    "namespace": "",
}  # fmt: skip
LABEL = st.from_regex(r"[a-z]([-a-z0-9]{0,18}[a-z0-9])?", fullmatch=True)
SIZES = st.builds(
    Size, cpus=st.floats(0.1, 256), memory=st.integers(2**30, 2**42), gpus=st.integers(0, 16),
    accelerator=st.tuples(st.sampled_from(["gpu", "cloud.google.com/gke-accelerator"]), st.sampled_from(["", "l4"])),
)  # fmt: skip


@st.composite
def groups(draw: st.DrawFn) -> tuple[Group, ...]:
    names = draw(st.lists(LABEL, unique=True, max_size=3))
    bounds = [draw(st.tuples(st.integers(0, 9), st.integers(0, 9))) for _ in names]
    return tuple(
        Group(n, least, least + more, True, draw(SIZES)) for n, (least, more) in zip(names, bounds, strict=True)
    )


ACCESS = st.builds(
    Access, service_account=st.sampled_from(["", "me"]), pull_secret=st.sampled_from(["", "pull"]),
    env_from=st.lists(LABEL, max_size=2).map(tuple),
    claims=st.lists(st.tuples(LABEL, LABEL.map("/{}".format)), max_size=3, unique_by=lambda pair: pair[1]).map(tuple),
    env=st.dictionaries(st.from_regex(r"[A-Z_][A-Z0-9_]*", fullmatch=True), st.text(max_size=20), max_size=3).map(
        lambda found: tuple(found.items())
    ),
)  # fmt: skip
CLUSTERS = st.builds(
    ClusterOptions, name=LABEL, image=st.sampled_from(["rayproject/ray:2.60.0", "r.example.org:5000/lab/me@sha256:00"]),
    ray_version=st.just("2.60.0"), owner=st.text(max_size=80), groups=groups(), head=SIZES, access=ACCESS,
    head_no_tasks=st.booleans(), autoscale=st.booleans(), namespace=st.sampled_from(["", "lab"]),
    queue=st.sampled_from(["", "team-a"]), user_id=st.sampled_from([None, 1000]),
)  # fmt: skip
JOBS = st.builds(JobOptions, st.text(max_size=30), st.integers(0, 9999), st.integers(1, 10**6))


def pods(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [spec["headGroupSpec"]["template"], *(group["template"] for group in spec["workerGroupSpecs"])]


def check(document: dict[str, Any]) -> None:
    """The document survives YAML, the CRD, and Kubernetes' own schema of a pod."""
    (read,) = yaml.safe_load_all(manifest.text([document]))
    assert read == document
    assert problems(copy.deepcopy(document)) == []
    spec = document["spec"].get("rayClusterSpec", document["spec"])
    for template in pods(spec):
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "a", **template["metadata"]},
            "spec": template["spec"],
        }
        kubernetes_validate.validate(pod, "1.37", strict=True)
        (container,) = template["spec"]["containers"]
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert {"name": "shm", "mountPath": "/dev/shm"} in container["volumeMounts"]
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(CLUSTERS, JOBS)
def test_what_the_options_make_is_valid(wanted: ClusterOptions, job: JobOptions) -> None:
    try:
        options.check(wanted, options.JOB_NAME_LIMIT)
    except RayhpcError:
        return
    check(manifest.cluster(wanted))
    check(manifest.job(wanted, job))


def test_the_validator_refuses() -> None:
    document = manifest.cluster(ClusterOptions("a", "i:2.60.0", "2.60.0", "me"))
    group = document["spec"]["workerGroupSpecs"][0]
    group["maxReplica"], group["replicas"] = 4, "2"
    assert len(problems(document)) == 2


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"workers": "3:2"}, "the least number of workers is above the most"),
        ({"workers": "4", "autoscale": True}, "--autoscale without a most"),
        ({"gpus": 1}, "GPUs without a node selector"),
        ({"head_no_tasks": True, "workers": "0"}, "nothing in the cluster could run a task"),
        ({"queue": "team", "workers": "0:4", "autoscale": True}, "--queue and --autoscale exclude each other"),
        ({"name": "a" * 51}, "the name is too long for a service"),
        ({"name": "a" * 49, "clusters": 2}, "the name is too long for a service"),
        ({"name": "Ray"}, "the name cannot be a service's"),
        ({"image": ""}, "the version of Ray is not known"),
        ({"image": "", "ray_version": "2.60.0"}, "there is no image"),
        ({"image": "lab/me:latest"}, "the version of Ray is not known"),
        ({"image": "rayproject/ray:2.40.0"}, "Ray 2.40.0 is too old"),
        ({"memory": "64 apples"}, "--memory is no size"),
        ({"memory": "512M"}, "a Ray node needs 0.1 CPUs and 1 GiB at least"),
        ({"group": ("gpu=gpus=1,worker=2",)}, "--group is not understood"),
        ({"group": ("a=workers=1", "a=workers=2")}, "two groups have one name"),
        ({"pvc": ("data",)}, "--pvc has no :"),
        ({"pvc": ("data:/dev/shm",)}, "a volume needs an absolute path of its own"),
        ({"env": ("A=1", "A=2")}, "--env is no variable, or is there twice"),
        ({"env": ("HF_TOKEN=x",)}, "--env HF_TOKEN is a secret by its name"),
        ({"mlflow": "somewhere"}, "--mlflow is no URL"),
        ({"user_id": 0}, "--user-id 0 is root"),
        ({"set": ("spec.nothing",)}, "--set has no path or no value"),
        ({"set": ("spec.workerGroupSpecs.7.replicas=1",)}, "--set leads nowhere"),
        ({"base": "/nonexistent"}, "/nonexistent cannot be read"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_with_the_reason(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(RayhpcError) as caught:
        parse.documents({**SAID, **changes}, "ada")
    fault = caught.value.fault
    assert (fault.what, fault.code) == (what, 2)
    assert all((fault.where, fault.evidence, fault.next_step))


def test_a_command_line() -> None:
    said = {"clusters": 2, "workers": "1:4", "autoscale": True, "head_no_tasks": True, "mlflow": "http://m:5000",
            "group": ("gpu=workers=0:2,gpus=1,accelerator=kind=l4,memory=32G",), "set": ("spec.suspend=false",),
    }  # fmt: skip
    first, second = parse.documents({**SAID, **said}, "ada@lab")
    assert [first["metadata"]["name"], second["metadata"]["name"]] == ["a-0", "a-1"]
    assert first["metadata"]["labels"]["ray.io/user"] == "ada-lab"
    assert first["spec"]["suspend"] is False
    assert [(g["groupName"], g["minReplicas"], g["maxReplicas"]) for g in first["spec"]["workerGroupSpecs"]] == [
        ("workers", 1, 4), ("gpu", 0, 2),
    ]  # fmt: skip
    assert first["spec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    check(first)


def test_a_site_s_own_document_is_kept_where_the_options_say_nothing(tmp_path: Any) -> None:
    site = manifest.cluster(ClusterOptions("site", "lab/ray:2.58.0", "2.58.0", "lab", (Group("cpu"),)))
    pod = site["spec"]["workerGroupSpecs"][0]["template"]["spec"]
    pod["containers"][0] |= {"name": "worker", "imagePullPolicy": "Always"}
    pod["priorityClassName"] = "low"
    (tmp_path / "site.yaml").write_text(manifest.text([site]))
    (made,) = parse.documents({**SAID, "base": str(tmp_path / "site.yaml"), "image": "", "head_cpus": 4.0}, "ada")
    assert made["metadata"]["name"] == "a"
    assert made["metadata"]["labels"]["ray.io/user"] == "ada"
    (group,) = made["spec"]["workerGroupSpecs"]
    assert group["template"]["spec"]["priorityClassName"] == "low"
    assert group["template"]["spec"]["containers"][0]["imagePullPolicy"] == "Always"
    head = made["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    assert (head["image"], head["resources"]["limits"]["cpu"], made["spec"]["rayVersion"]) == (
        "lab/ray:2.58.0",
        "4000m",
        "2.58.0",
    )
    check(made)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("a: [", "is no YAML"),
        ("- a", "is no RayCluster"),
        ("kind: RayJob", "is no RayCluster"),
        ("kind: RayCluster", "is no RayCluster that KubeRay takes"),
        ("{kind: RayCluster, spec: {headGroupSpec: null}}", "is no RayCluster that KubeRay takes"),
        ("{kind: RayCluster, spec: {headGroupSpec: {template: {spec: {containers: []}}}}}",
         "is no RayCluster that KubeRay takes"),
    ],
)  # fmt: skip
def test_a_site_s_document_that_is_none_is_refused(text: str, what: str, tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text(text)
    with pytest.raises(RayhpcError) as caught:
        parse.documents({**SAID, "base": str(tmp_path / "site.yaml")}, "ada")
    assert caught.value.fault.what == f"{tmp_path}/site.yaml {what}"


def test_a_site_s_groups_run_the_tasks_of_a_head_that_runs_none(tmp_path: Path) -> None:
    site = manifest.cluster(ClusterOptions("site", "lab/ray:2.58.0", "2.58.0", "lab", (Group("cpu"),)))
    (tmp_path / "site.yaml").write_text(manifest.text([site]))
    (made,) = parse.documents({**SAID, "base": str(tmp_path / "site.yaml"), "head_no_tasks": True}, "ada")
    assert made["spec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert [group["groupName"] for group in made["spec"]["workerGroupSpecs"]] == ["cpu"]


def test_the_same_options_give_the_same_text() -> None:
    one, other = (manifest.text(parse.documents(SAID, "ada")) for _ in range(2))
    assert one == other
    assert "&" not in one
