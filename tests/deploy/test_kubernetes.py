"""The Kubernetes base: valid against the API's schemas, and what it promises about draining, probes and rights."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from stepstream_server.config import DoorSettings
from stepstream_server.sources import load

BASE, TLS = (Path(__file__).parents[2] / "deploy" / "kubernetes" / name for name in ("base", "tls"))
OLDEST = "1.29"  # the oldest Kubernetes that the manifests are for
NAME = {"app.kubernetes.io/name": "stepstream"}
Manifest = dict[str, Any]


def resources() -> list[str]:
    """File names that the kustomization lists."""
    names: list[str] = yaml.safe_load((BASE / "kustomization.yaml").read_text())["resources"]
    return names


def manifest(kind: str, folder: Path = BASE) -> Manifest:
    """The one manifest of this kind, as it lies in its file; in TLS it is a patch."""
    loaded: Manifest = yaml.safe_load((folder / f"{kind.lower()}.yaml").read_text())
    assert loaded["kind"] == kind
    return loaded


def server() -> Manifest:
    """The Deployment's container."""
    (container,) = manifest("Deployment")["spec"]["template"]["spec"]["containers"]
    assert isinstance(container, dict)
    return container


def asked_port(flag: str) -> int:
    """The port in the container's arguments."""
    arguments: list[str] = server()["args"]
    return int(arguments[arguments.index(f"--{flag}") + 1].rpartition(":")[2])


def kubectl() -> str:
    """A kubectl that brings kustomize with `labels` (1.25 and later), or skips the test."""
    found = shutil.which("kubectl")
    if found is None:
        pytest.skip("kubectl is not installed: the base is not rendered, only its files are checked")
    version = subprocess.run([found, "version", "--client"], capture_output=True, text=True).stdout
    number = re.search(r"v1\.(\d+)\.", version)
    if number is None or int(number[1]) < 25:
        pytest.skip(f"kubectl 1.25 or later is needed to render the base, found: {version.strip() or 'no version'}")
    return found


def test_every_listed_file_is_valid_by_itself() -> None:
    """Each manifest obeys the API's strict schema: a misspelt or misplaced field is an error."""
    for name in resources():
        kubernetes_validate.validate(yaml.safe_load((BASE / name).read_text()), OLDEST, strict=True)


def test_every_file_is_listed() -> None:
    """No manifest lies in the folder without being part of the base."""
    assert sorted(resources()) == sorted(path.name for path in BASE.glob("*.yaml") if path.name != "kustomization.yaml")


@pytest.mark.parametrize("folder", [BASE, TLS], ids=["base", "tls"])
def test_what_is_rendered_is_valid(folder: Path) -> None:
    """What `kubectl apply -k` would send obeys the schema, and the image has a handle."""
    rendered = subprocess.run([kubectl(), "kustomize", str(folder)], capture_output=True, text=True, check=True).stdout
    manifests: list[Manifest] = list(yaml.safe_load_all(rendered))
    for each in manifests:
        kubernetes_validate.validate(each, OLDEST, strict=True)
    assert {each["kind"] for each in manifests} == {"ServiceAccount", "Service", "Deployment", "PodDisruptionBudget"}
    deployment = next(each for each in manifests if each["kind"] == "Deployment")
    assert re.fullmatch(r"stepstream:\d+\.\d+\.\d+", deployment["spec"]["template"]["spec"]["containers"][0]["image"])


def test_selectors_find_the_pods() -> None:
    """Deployment, Service and disruption budget select by labels that the pods carry."""
    deployment = manifest("Deployment")["spec"]
    assert deployment["template"]["metadata"]["labels"].items() >= NAME.items()
    assert deployment["selector"]["matchLabels"] == NAME
    assert manifest("Service")["spec"]["selector"] == NAME
    assert manifest("PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == NAME


def test_a_new_pod_serves_before_an_old_one_drains() -> None:
    """An update surges and never goes below the wanted number; a node can still be emptied."""
    assert manifest("Deployment")["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    assert manifest("PodDisruptionBudget")["spec"]["maxUnavailable"] == 1


def test_grace_period_outlasts_the_drain() -> None:
    """The pod is not killed before the preStop pause, a whole drain and ten seconds of closing have passed."""
    pod = manifest("Deployment")["spec"]["template"]["spec"]
    command, pause = server()["lifecycle"]["preStop"]["exec"]["command"]
    assert command == "/bin/sleep"
    assert pod["terminationGracePeriodSeconds"] >= int(pause) + DoorSettings().drain_seconds + 10


def test_probes_ask_the_health_service_at_its_own_port() -> None:
    """Startup and readiness follow the service `readiness`; liveness follows `liveness`, which stays on while draining."""
    container, health = server(), asked_port("health")
    probes = {name: container[f"{name}Probe"]["grpc"] for name in ("startup", "readiness", "liveness")}
    assert probes == {
        "startup": {"port": health, "service": "readiness"},
        "readiness": {"port": health, "service": "readiness"},
        "liveness": {"port": health, "service": "liveness"},
    }


def test_ports_agree() -> None:
    """Arguments, container, Service and scrape annotations name the same ports; that of probes is in no Service."""
    ports = {port["name"]: port["containerPort"] for port in server()["ports"]}
    assert ports == {"grpc": asked_port("listen"), "metrics": asked_port("metrics"), "health": asked_port("health")}
    del ports["health"]
    service = manifest("Service")["spec"]
    assert service["clusterIP"] == "None"
    assert {port["name"]: port["port"] for port in service["ports"]} == ports
    assert {port["name"]: port["appProtocol"] for port in service["ports"]}["grpc"] == "kubernetes.io/h2c"
    annotations = manifest("Deployment")["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/scrape"] == "true"
    assert annotations["prometheus.io/port"] == str(ports["metrics"])


def test_environment_names_real_settings() -> None:
    """Every STEPSTREAM_ variable of the pod is a setting that the server knows, with a value that it accepts."""
    load({}, {variable["name"]: variable["value"] for variable in server()["env"]})


def test_pod_has_no_rights() -> None:
    """The pod satisfies the restricted profile and holds no token for the cluster's API."""
    pod = manifest("Deployment")["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert manifest("ServiceAccount")["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 10001
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert server()["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_tls_is_a_secret_beside_the_base() -> None:
    """The patch finds the container and the port; its variables are settings, of files in the folder of the Secret."""
    pod = manifest("Deployment", TLS)["spec"]["template"]["spec"]
    (container,), (volume,) = pod["containers"], pod["volumes"]
    (mount,) = container["volumeMounts"]
    assert container["name"] == server()["name"]
    door = load({}, {each["name"]: each["value"] for each in [*server()["env"], *container["env"]]}).door
    assert (door.tls_cert, door.tls_key) == (f"{mount['mountPath']}/tls.crt", f"{mount['mountPath']}/tls.key")
    assert (mount["name"], "subPath" in mount) == (volume["name"], False)
    assert volume["secret"]["secretName"] in (TLS / "kustomization.yaml").read_text()
    (port,) = manifest("Service", TLS)["spec"]["ports"]
    assert (port["name"], port["port"], port["appProtocol"]) == ("grpc", asked_port("listen"), "https")
    kustomization = yaml.safe_load((TLS / "kustomization.yaml").read_text())
    assert kustomization["resources"] == ["../base"]
    assert sorted(each["path"] for each in kustomization["patches"]) == ["deployment.yaml", "service.yaml"]
