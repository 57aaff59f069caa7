"""`rayhpc kube` with the real kubectl, and pods that never start: why they wait, who may leave, what is deleted."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rayhpc.kube import job, manifest
from rayhpc.kube.kubectl import Kubectl
from rayhpc.kube.manifest import OWNER
from rayhpc.kube.options import ClusterOptions, JobOptions
from rayhpc.records.registry import account
from tests.launch import Mpi, until
from tests.standin.kube_lab import SMALL, WIDTH, Lab, moment, told
from tests.unit.kube import schemas

pytestmark = pytest.mark.timeout(120)

MISSING = ("--image", "lab/nothing:2.60.0")
FAULTS = {
    "Unschedulable": (("--gpus", "1", "--accelerator", "kind=l4"),
                      "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."),
    "ImagePullBackOff": (MISSING, 'Back-off pulling image "lab/nothing:2.60.0": not found'),
    "CreateContainerConfigError": (("--env-from", "keys"), 'secret "keys" not found'),
    "CrashLoopBackOff": (("--set", "spec.headGroupSpec.rayStartParams.nonsense=abc"), "No such option"),
}  # fmt: skip


@pytest.fixture
def lab(dashboard: Mpi, tmp_path: Path) -> Iterator[Lab]:
    schemas.definition("RayCluster")  # skips without the CRDs
    made = Lab(dashboard, tmp_path)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("name", FAULTS)
def test_why_a_pod_waits_is_said_within_five_seconds(lab: Lab, name: str) -> None:
    words, evidence = FAULTS[name]
    operator = lab.start_operator(kind="cpu")
    # Ray's own commands take seconds before they say what is wrong.
    seconds = "12" if name == "CrashLoopBackOff" else "4"
    lines, code = told(lab, "kube", "launch", *SMALL, "--name", "a", "--timeout", seconds, *words)
    text = "\n".join(line for _, line in lines)
    first = moment(lines, f"rayhpc: a pod does not start: {name}")
    assert first - operator.seen[name] < 5, text
    assert evidence in text
    assert f"rayhpc: not ready after {seconds} s: a  [pod a-" in text
    assert text.count("  next: ") >= 2
    assert code == 72


def test_a_quota(lab: Lab) -> None:
    lab.api.pod_limit = 1
    lab.api.create(
        "pods", "lab", {"metadata": {"name": "other"}, "spec": {"containers": [{"image": "i", "name": "c"}]}}
    )
    operator = lab.start_operator()
    lines, code = told(lab, "kube", "launch", *SMALL, "--name", "a", "--timeout", "4")
    text = "\n".join(line for _, line in lines)
    first = moment(lines, "rayhpc: the namespace's quota has no room")
    assert first - operator.seen["quota"] < 5
    assert "exceeded quota: team, requested: pods=1, used: pods=1" in text
    assert code == 72


def test_no_operator(lab: Lab) -> None:
    began = time.monotonic()
    lines, code = told(lab, "kube", "launch", *SMALL, "--name", "a", "--timeout", "5")
    first = moment(lines, "rayhpc: no KubeRay operator answers")
    assert first - began < 8  # the object is some two seconds younger than the command
    assert code == 72


def test_what_can_be_known_before_anything_is_made(lab: Lab) -> None:
    lab.api.forbidden = {("create", "pods/portforward"), ("patch", "rayclusters"), ("list", "rayclusters")}
    done = lab.run("kube", "launch", *SMALL, "--name", "a")
    assert done.returncode == 78
    assert "rayhpc: you may not do here what a Ray cluster needs  [namespace lab]" in done.stderr, done.stderr
    for need in ("create pods/portforward", "patch rayclusters.ray.io"):
        assert f"    kubectl auth can-i {need}: no\n" in done.stderr
    done = lab.run("kube", "list")
    assert "you are not allowed to do this here" in done.stderr, done.stderr
    assert 'cannot list resource "rayclusters"' in done.stderr
    lab.api.crds = False
    done = lab.run("kube", "launch", *SMALL, "--name", "a")
    assert "the KubeRay operator's types are not installed in this cluster" in done.stderr
    assert done.returncode == 78
    assert lab.api.list("rayclusters") == []
    lab.outage()
    for words, what in (((), "Kubernetes cannot be reached"), (("--context", "b"), "there is no such context")):
        done = lab.run("kube", "list", *words)
        assert done.returncode == 78
        assert done.stderr.startswith(f"rayhpc: {what}  [kubectl get rayclusters.ray.io,rayjobs.ray.io]\n"), done.stderr
    lab.env["KUBECONFIG"] = "/nonexistent"
    assert lab.run("kube", "list").stderr.startswith("rayhpc: kubectl knows no cluster  [")


def test_somebody_else_s_cluster_of_the_same_name_is_left_alone(lab: Lab) -> None:
    lab.well("kube", "launch", *SMALL, "--name", "a", "--no-wait")
    theirs = lab.api.get("rayclusters", "lab", "a")
    theirs["metadata"]["labels"][OWNER] = "eve"
    lab.api.put("rayclusters", "lab", theirs)
    done = lab.run("kube", "launch", *SMALL, "--name", "a", "--no-wait", "--workers", "3")
    assert done.returncode == 78
    assert "the name belongs to a RayCluster of somebody else  [namespace lab]" in done.stderr
    assert f"a: label {OWNER}=eve" in done.stderr
    assert lab.api.get("rayclusters", "lab", "a")["spec"]["workerGroupSpecs"][0]["replicas"] == 1


def test_ctrl_c_leaves_the_start_alone(lab: Lab) -> None:
    lab.start_operator()
    with lab.terminal("kube", "launch", *SMALL, *MISSING, "--name", "a", "--workers", "6") as shown:
        shown.until("and 5 more pods of group workers")
        shown.until("a-workers-0 and 5 more")
        shown.type("\x03")
        assert shown.wait() == 130, shown.text
    assert "detached: a goes on\n" in shown.text
    for step in ("rayhpc kube show a", "rayhpc kube address a", "rayhpc kube delete a"):
        assert f"  {step}\n" in shown.text
    assert max(map(len, shown.text.splitlines())) <= WIDTH
    assert lab.names("rayclusters") == ["a"]


def test_a_job_that_was_not_sent_is_taken_back(lab: Lab) -> None:
    """KubeRay would wait for it without an end, and keep its pods."""
    lab.start_operator()
    words = ("kube", "job", *SMALL, *MISSING, "--name", "j")
    with lab.terminal(*words, "--", "train.py") as shown:
        shown.until("ImagePullBackOff")
        shown.type("\x03")
        assert shown.wait() == 130, shown.text
    assert "was not sent yet; it is deleted, its cluster too\n" in shown.text
    assert (lab.names("rayjobs"), lab.names("rayclusters")) == ([], [])
    done = lab.run(*words, "--timeout", "2", "--", "train.py")
    assert done.returncode == 72, done.stderr
    assert "rayhpc: not ready after 2 s: j-" in done.stderr
    assert (lab.names("rayjobs"), lab.names("rayclusters")) == ([], [])
    done = lab.run(*words, "--working-dir", "nowhere", "--", "train.py")
    assert (done.returncode, "--working-dir is no directory" in done.stderr) == (2, True), done.stderr


def test_how_the_operator_has_ended_a_job(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KUBECONFIG", "PATH"):
        monkeypatch.setenv(name, lab.env[name])
    made = manifest.job(ClusterOptions("j", "i:2.60.0", "2.60.0", account()), JobOptions("true"))
    lab.api.create("rayjobs", "lab", made)
    why = lambda: job.ended_by_operator(Kubectl(), "j")  # noqa: E731
    assert why() is None
    late = {"jobDeploymentStatus": "Failed", "reason": "DeadlineExceeded", "message": "over"}
    for status, what, step in (
        (late, "job j has used up its time", "give it more: --time"),
        ({**late, "reason": "SubmissionFailed"}, "the operator has ended job j", "kubectl describe rayjob j"),
    ):
        lab.api.patch_status("rayjobs", "lab", "j", status)
        found = why()
        assert found is not None
        assert (found.fault.what, found.fault.next_step) == (what, step)
        assert found.fault.evidence == (status["reason"], "over")
    lab.api.delete("rayjobs", "lab", "j")
    found = why()
    assert found is not None
    assert found.fault.what == "job j was deleted"


def test_a_server_that_goes_away_ends_no_waiting(lab: Lab) -> None:
    lab.start_operator()
    with lab.terminal("kube", "launch", *SMALL, *MISSING, "--name", "a") as shown:
        shown.until("a-head")
        lab.outage()
        shown.until("rayhpc: Kubernetes cannot be reached")
        lab.comes_back()
        shown.until("ImagePullBackOff")
        lab.api.delete("rayclusters", "lab", "a")
        assert shown.wait() == 72, shown.text
    assert "rayhpc: a was deleted before it was ready  [lab]\n" in shown.text


def test_show_says_what_each_pod_waits_for(lab: Lab) -> None:
    lab.start_operator()
    lab.well("kube", "launch", *SMALL, *MISSING, "--name", "a", "--no-wait")
    assert until(lambda: len(lab.api.list("pods")) == 2, 10)
    done = lab.run("kube", "show", "a")
    assert done.returncode == 0
    assert done.stderr.count("rayhpc: a pod does not start: ImagePullBackOff") == 2
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert lines[0][:4] == ["NAME", "KIND", "STATE", "WORKERS"]
    assert lines[1][:4] == ["a", "RayCluster", "waits", "0/1"]
    assert ["a-workers-0", "workers", "ImagePullBackOff"] in lines
    shown = json.loads(lab.well("kube", "show", "a", "--json"))
    assert (shown["name"], len(shown["pods"]), len(shown["faults"])) == ("a", 2, 2)
    assert shown["faults"][0]["next_step"].startswith("check --image")
    done = lab.run("kube", "show", "b")
    assert (done.returncode, "Kubernetes has no such object" in done.stderr) == (78, True)
    done = lab.run("kube", "address", "a")
    assert done.returncode == 2
    assert "a: waits" in done.stderr
    assert "next: rayhpc kube show a" in done.stderr
    done = lab.run("kube", "logs", "a", "--pod", "a-worker")
    assert (done.returncode, "its pods: a-head, a-workers-0" in done.stderr) == (2, True), done.stderr


def test_delete_by_name_by_prefix_and_all_of_mine(lab: Lab) -> None:
    for name in ("a-0", "a-1", "a-eve", "b-0", "b-1", "c"):
        owner = "eve" if name == "a-eve" else account()
        lab.api.create("rayclusters", "lab", manifest.cluster(ClusterOptions(name, "i:2.60.0", "2.60.0", owner)))
    done = lab.run("kube", "delete", "--prefix", "a-")
    assert done.returncode == 2
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == ["NAME", "a-0", "a-1"]
    assert "nothing was deleted: nobody can be asked" in done.stderr
    for answer, left in (("n", ["a-0", "a-1"]), ("y", [])):
        with lab.terminal("kube", "delete", "--prefix", "a-") as shown:
            shown.until("delete 2 objects? [y/N]: ")
            shown.type(f"{answer}\n")
            assert shown.wait() == (0 if answer == "y" else 1)
        assert lab.names("rayclusters") == [*left, "a-eve", "b-0", "b-1", "c"]
    done = lab.run("kube", "delete", "c", "gone", "--yes")
    assert (done.returncode, "rayhpc kube list" in done.stderr) == (78, True)
    assert lab.run("kube", "delete", "c", "--all", "--yes").returncode == 2
    lab.well("kube", "delete", "c", "--yes")
    assert lab.names("rayclusters") == ["a-eve", "b-0", "b-1"]
    lab.well("kube", "delete", "--all", "--yes")
    assert lab.names("rayclusters") == ["a-eve"]
    done = lab.run("kube", "delete", "--all", "--yes")
    assert (done.returncode, done.stderr) == (0, "nothing to delete\n")
    assert [row["name"] for row in json.loads(lab.well("kube", "list", "--all-users", "--json"))] == ["a-eve"]
