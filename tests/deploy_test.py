"""The Kubernetes manifests render, are valid, and hold what the platform's rules ask for; the image lints clean."""
import pathlib
import re
import subprocess
import sys

import kubernetes_validate
import pytest
import yaml

from cluster import BIN, ROOT

K8S_VERSION = "1.33"


def tool(name):
    """A program that came with tests/requirements.txt."""
    return pathlib.Path(sys.executable).parent / name


def render(place):
    done = subprocess.run([tool("kubectl"), "kustomize", ROOT / "deploy/k8s" / place], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


@pytest.fixture(scope="module", params=["base", "overlays/gpu"])
def documents(request):
    return render(request.param)


def by_kind(documents, kind):
    return {document["metadata"]["name"]: document for document in documents if document["kind"] == kind}


def workloads(documents):
    return {**by_kind(documents, "Deployment"), **by_kind(documents, "StatefulSet")}


def test_every_document_fits_its_schema(documents):
    for document in documents:
        kubernetes_validate.validate(document, K8S_VERSION, strict=True)


def test_roles_are_there(documents):
    assert set(by_kind(documents, "Deployment")) == {"braid-gateway", "braid-router"}
    assert set(by_kind(documents, "StatefulSet")) == {"braid-expert-worker"}
    headless = by_kind(documents, "Service")["braid-expert-worker"]["spec"]
    assert headless["clusterIP"] == "None" and headless["publishNotReadyAddresses"]
    assert by_kind(documents, "Service")["braid-router"]["spec"]["publishNotReadyAddresses"]
    for role in ("gateway", "router", "expert-worker"):
        assert f"braid-{role}" in by_kind(documents, "PodDisruptionBudget")
        assert f"braid-{role}" in by_kind(documents, "NetworkPolicy")


def test_pods_are_restricted(documents):
    for name, workload in workloads(documents).items():
        pod = workload["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] and pod["automountServiceAccountToken"] is False, name
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] and not context["allowPrivilegeEscalation"], name
            assert context["capabilities"]["drop"] == ["ALL"], name


def test_probes_tell_loading_from_ready_from_alive(documents):
    for name, workload in workloads(documents).items():
        container = workload["spec"]["template"]["spec"]["containers"][0]
        assert container["livenessProbe"]["httpGet"]["path"] == "/livez", name
        assert container["readinessProbe"]["httpGet"]["path"] == "/readyz", name
        startup = container["startupProbe"]
        assert startup["periodSeconds"] * startup["failureThreshold"] >= 60, name
        ports = {port["name"] for port in container["ports"]}
        assert container["livenessProbe"]["httpGet"]["port"] in ports, name


def test_the_router_waits_for_as_many_workers_as_a_group_has(documents):
    arguments = by_kind(documents, "Deployment")["braid-router"]["spec"]["template"]["spec"]["containers"][0]["args"]
    worker = by_kind(documents, "StatefulSet")["braid-expert-worker"]["spec"]
    on_gpu = "nvidia.com/gpu" in worker["template"]["spec"]["containers"][0]["resources"]["limits"]
    # The GPUs of a pod are a group: as many as there are pods serve from one on.
    members = len(worker["template"]["spec"]["containers"]) if on_gpu else worker["replicas"]
    assert [flag for flag in arguments if flag.startswith("--workers")] == [f"--workers={members}"]


def test_flags_exist():
    """Every flag in the manifests is one that the program has."""
    for workload in workloads(render("base")).values():
        container = workload["spec"]["template"]["spec"]["containers"][0]
        program = BIN / container["command"][0]
        known = subprocess.run([program, "--help"], capture_output=True, text=True).stdout
        for argument in container["args"]:
            flag = argument.split("=")[0]
            assert re.search(rf"{flag}\b", known), f"{program.name} has no {flag}"


def test_gpu_overlay_asks_for_a_gpu():
    worker = by_kind(render("overlays/gpu"), "StatefulSet")["braid-expert-worker"]["spec"]["template"]["spec"]
    container = worker["containers"][0]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert container["image"] == "braid:cuda"


def test_dockerfile_has_both_targets_and_lints():
    text = (ROOT / "deploy/Dockerfile").read_text()
    assert re.search(r"^FROM .* AS cpu$", text, re.M) and re.search(r"^FROM .* AS cuda$", text, re.M)
    done = subprocess.run([tool("hadolint"), ROOT / "deploy/Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
