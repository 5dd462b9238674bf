"""The chart of deploy/helm: valid for three versions of Kubernetes, with least privilege, and as the pages describe."""

import copy
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from config.settings import Settings
from tests.production.artefacts import helm
from tests.production.artefacts.processes import NAMES, ROOT, module_of, row, secrets_of, stop_seconds

pytestmark = pytest.mark.integration  # starts a process

CHART = ROOT / "deploy" / "helm" / "openkcm"
EXAMPLE = yaml.safe_load((ROOT / "deploy" / "helm" / "example.yaml").read_text(encoding="utf-8"))
VERSIONS = ("1.35", "1.36", "1.37")
MINIMAL = {
    "settings": {
        name: EXAMPLE["settings"][name]
        for name in ("base_url", "crypto_names", "database_url", "vault_address", "oidc_metadata_url")
    },
    "temporal": {"address": "temporal.example.com:7233"},
    "worker": {"archiveClaim": "openkcm-archive"},
}
NOTIFICATION_SECRETS = ["callback-secret", "smtp-password"]
SERVERS = {
    "worker": {"database", "vault", "temporal", "rootKeys", "notifications", "crypto"},
    "marketplace": {"database", "temporal", "web"},
    "crypto": {"database", "vault", "rootKeys"},
    "dashboard": {"database", "temporal", "web"},
    "codec": {"vault"},
    "setup": {"database", "vault"},
}
"""The servers that each process may connect to: ARCHITECTURE.md, Trust boundaries."""
CALLERS = {
    "worker": {"metrics": "monitoring"},
    "marketplace": {"http": "events"},
    "crypto": {"https": "clients", "kmip": "clients", "metrics": "monitoring"},
    "dashboard": {"http": "users"},
    "codec": {"http": "operators"},
    "setup": {},
}
Manifest = dict[str, Any]


def rendered(values: dict[str, Any]) -> list[Manifest]:
    result = helm.run(CHART, values)
    assert "error" not in result, result
    return [one for one in yaml.safe_load_all(result["rendered"]) if one]


@pytest.fixture(scope="module")
def minimal() -> list[Manifest]:
    return rendered(MINIMAL)


@pytest.fixture(scope="module")
def example() -> list[Manifest]:
    return rendered(EXAMPLE)


def named(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    (found,) = (one for one in manifests if one["kind"] == kind and one["metadata"]["name"] == f"openkcm-{name}")
    return found


def workload(manifests: list[Manifest], name: str) -> Manifest:
    return named(manifests, "StatefulSet" if name == "crypto" else "Deployment", name)


def pod(manifests: list[Manifest], name: str) -> Manifest:
    return workload(manifests, name)["spec"]["template"]["spec"]


def pods(manifests: list[Manifest]) -> list[Manifest]:
    """Return the templates of all pods."""
    return [one["spec"]["template"] for one in manifests if one["kind"] in {"Deployment", "StatefulSet", "Job"}]


def containers(template: Manifest) -> list[Manifest]:
    return [*template["spec"].get("initContainers", []), *template["spec"]["containers"]]


def changed(values: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    copied = copy.deepcopy(values)
    *parents, last = path.split(".")
    place = copied
    for parent in parents:
        place = place.setdefault(parent, {})
    place[last] = value
    return copied


@pytest.mark.parametrize("values", [MINIMAL, EXAMPLE], ids=["minimal", "example"])
def test_chart_has_no_lint_finding_and_strictly_valid_manifests(values):
    result = helm.run(CHART, values, *(f"v{version}.0" for version in VERSIONS))
    for version in VERSIONS:
        report = result["reports"][f"v{version}.0"]
        assert report["errors"] == []
        assert [one["error"] for one in report["messages"]] == ["icon is recommended"]
        manifests = [one for one in yaml.safe_load_all(result["rendered"]) if one]
        assert len(manifests) > 25
        for manifest in manifests:
            kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_an_unknown_field_of_a_manifest_is_found(minimal, version):
    deployment = copy.deepcopy(workload(minimal, "worker"))
    deployment["spec"]["template"]["spec"]["enableServiceLink"] = False
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, version, strict=True)


def test_manifests_do_not_depend_on_the_version():
    """Helm's library renders for its default version; only `lint` accepts another one."""
    assert not [file for file in (CHART / "templates").iterdir() if ".Capabilities" in file.read_text()]


def test_a_broken_template_is_rejected(tmp_path):
    copied = tmp_path / "openkcm"
    copied.mkdir()
    for file in CHART.rglob("*"):
        target = copied / file.relative_to(CHART)
        target.mkdir() if file.is_dir() else target.write_bytes(file.read_bytes())
    template = copied / "templates" / "settings.yaml"
    template.write_text(template.read_text() + '{{ include "openkcm.missing" . }}\n')
    assert "openkcm.missing" in helm.run(copied, MINIMAL)["error"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("settings.databse_url", "postgresql://db.example.com/openkcm"),
        ("settings.crypto_https_port", 443),
        ("settings.state_dir", "/data"),
        ("settings.crypto_names", "crypto.example.com"),
        ("settings.approval_ttl_hours", 0),
        ("settings.workload_issuers", {"https://issuer.example.com": {"jwk": "https://issuer.example.com/keys"}}),
        ("settings", {"base_url": "https://kcm.example.com"}),
        ("temporal.address", ""),
        ("worker.archiveClaim", ""),
        ("worker.environment", {"OPENKCM_DATABASE_URL": "postgresql://other/openkcm"}),
        ("worker.secrets", "openkcm-worker"),
        ("crypto.replicas", 0),
        ("networkPolicy.database.ports", []),
        ("networkPolicy.clients", [{}]),
        ("image.digest", "latest"),
    ],
)
def test_a_wrong_value_is_rejected(path, value):
    assert "error" in helm.run(CHART, changed(MINIMAL, path, value))


def test_values_may_have_every_setting_that_the_chart_does_not_set(minimal):
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    allowed = schema["properties"]["settings"]["properties"].keys()
    written = tomllib.loads(named(minimal, "ConfigMap", "settings")["data"]["openkcm.toml"]).keys()
    # Ports and the state folder have their defaults, and a Deployment replaces workers in place.
    unset = {name for name in Settings.model_fields if name.endswith("_port")} | {"state_dir", "worker_build_id"}
    unset -= {"smtp_port", "crypto_https_public_port", "crypto_kmip_public_port"}
    assert Settings.model_fields.keys() - allowed == written - MINIMAL["settings"].keys() | unset


def test_chart_has_the_version_of_the_project():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert chart["version"] == chart["appVersion"] == project["version"]


@pytest.mark.parametrize(("name", "process"), NAMES.items())
def test_pod_runs_the_process_with_its_secrets_and_no_others(minimal, name, process):
    spec = pod(minimal, name)
    (container,) = spec["containers"]
    assert container["command"] == ["/opt/openkcm/bin/python", "-m", module_of(process)]
    (secret,) = (volume["secret"] for volume in spec["volumes"] if "secret" in volume)
    assert secret["secretName"] == f"openkcm-{name}"
    assert [item["key"] for item in secret["items"]] == [item["path"] for item in secret["items"]]
    assert {item["key"] for item in secret["items"]} == {*secrets_of(process)} - {*NOTIFICATION_SECRETS}


def test_worker_with_notifications_has_their_secrets():
    manifests = rendered(changed(MINIMAL, "worker.notificationSecrets", NOTIFICATION_SECRETS))
    (secret,) = (volume["secret"] for volume in pod(manifests, "worker")["volumes"] if "secret" in volume)
    assert [item["key"] for item in secret["items"]] == secrets_of("worker")


def settings_of(manifests: list[Manifest], folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> Settings:
    file = folder / "openkcm.toml"
    file.write_text(named(manifests, "ConfigMap", name)["data"]["openkcm.toml"])
    monkeypatch.setenv("OPENKCM_CONFIG", str(file))
    return Settings()


@pytest.mark.parametrize("name", ["settings", "setup"])
def test_settings_file_has_the_values_and_what_the_pods_need(example, tmp_path, monkeypatch, name):
    settings = settings_of(example, tmp_path, monkeypatch, name)
    for setting, value in EXAMPLE["settings"].items():
        found = getattr(settings, setting)
        assert (list(found) if isinstance(value, list) else type(value)(found)) == value
    assert settings.temporal == "profile"
    for process in NAMES:
        for volume in containers(workload(example, process)["spec"]["template"])[0]["volumeMounts"]:
            if volume["name"] == "secrets":
                assert str(settings.secrets) == volume["mountPath"]
    mounts = {one["name"]: one["mountPath"] for one in pod(example, "worker")["containers"][0]["volumeMounts"]}
    assert str(settings.audit_archive) == mounts["archive"]
    assert mounts["settings"] == "/etc/openkcm/openkcm.toml"


def test_ports_are_those_of_the_settings_and_reachable_from_other_pods(minimal, tmp_path, monkeypatch):
    settings = settings_of(minimal, tmp_path, monkeypatch, "settings")
    expected = {
        "worker": {"metrics": settings.worker_metrics_port},
        "marketplace": {"http": settings.marketplace_port},
        "crypto": {
            "https": settings.crypto_https_port,
            "kmip": settings.crypto_kmip_port,
            "metrics": settings.crypto_metrics_port,
        },
        "dashboard": {"http": settings.dashboard_port},
        "codec": {"http": settings.codec_port},
    }
    for name, ports in expected.items():
        (container,) = pod(minimal, name)["containers"]
        assert {port["name"]: port["containerPort"] for port in container["ports"]} == ports
    hosts = ("marketplace", "dashboard", "crypto", "codec", "worker_metrics", "crypto_metrics")
    assert {getattr(settings, f"{host}_host") for host in hosts} == {"0.0.0.0"}  # noqa: S104 - what is tested


def test_probes_are_the_documented_checks(minimal):
    for name, process in NAMES.items():
        (container,) = pod(minimal, name)["containers"]
        alive, ready = row("Checks and stop", process)
        path = re.findall(r"`(/\w+)", alive)[0]
        # The worker receives no requests, and the codec server has one check: the page names no other path for them.
        expected = [path, *(re.findall(r"`(/\w+)`", ready) or [path])]
        assert [container[probe]["httpGet"]["path"] for probe in ("livenessProbe", "readinessProbe")] == expected
        assert container["startupProbe"]["httpGet"] == container["livenessProbe"]["httpGet"]
    (crypto,) = pod(minimal, "crypto")["containers"]
    assert crypto["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "metrics"}


@pytest.mark.parametrize(("notice", "grace"), [(15, 20), (300, 600), (0.5, 0.5)])
def test_kubernetes_waits_until_a_process_has_stopped(notice, grace, tmp_path, monkeypatch):
    manifests = rendered(MINIMAL | {"shutdownNotice": notice, "shutdownGrace": grace})
    settings = settings_of(manifests, tmp_path, monkeypatch, "settings")
    assert (settings.shutdown_notice_seconds, settings.shutdown_grace_seconds) == (notice, grace)
    for name in NAMES:
        spec = pod(manifests, name)
        pause = spec["containers"][0].get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        assert spec["terminationGracePeriodSeconds"] > stop_seconds(settings) + pause


def test_pods_have_no_privilege_no_token_and_no_variables_of_services(example):
    assert len(pods(example)) == len(NAMES) + 1
    for template in pods(example):
        spec = template["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        assert not [volume for volume in spec["volumes"] if "hostPath" in volume]
        security = spec["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] == security["runAsGroup"] == security["fsGroup"] > 10_000
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in containers(template):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "runAsNonRoot": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]
            assert not [one for one in container.get("env", []) if one["name"].startswith("OPENKCM_")]
    accounts = [one for one in example if one["kind"] == "ServiceAccount"]
    assert [one["automountServiceAccountToken"] for one in accounts] == [False] * (len(NAMES) + 1)
    assert not [one for one in example if one["kind"] in {"Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"}]


def test_every_secret_is_mounted_readable_by_the_group_of_the_pod_only(example):
    for template in pods(example):
        modes = [volume["secret"]["defaultMode"] for volume in template["spec"]["volumes"] if "secret" in volume]
        assert modes
        assert set(modes) == {0o440}


def matches(selector: dict[str, str], template: Manifest) -> bool:
    return selector.items() <= template["metadata"]["labels"].items()


def test_every_selector_finds_the_pods_of_one_process(example):
    templates = {name: workload(example, name)["spec"]["template"] for name in NAMES}
    for name in NAMES:
        budget = named(example, "PodDisruptionBudget", name)["spec"]
        selectors = [budget["selector"], workload(example, name)["spec"]["selector"]]
        selectors += [one["labelSelector"] for one in pod(example, name)["topologySpreadConstraints"]]
        for selector in selectors:
            found = [other for other, template in templates.items() if matches(selector["matchLabels"], template)]
            assert found == [name]
    for service in (one for one in example if one["kind"] == "Service"):
        (name,) = (name for name, template in templates.items() if matches(service["spec"]["selector"], template))
        ports = {port["name"] for port in templates[name]["spec"]["containers"][0]["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports


def test_policies_allow_only_what_each_process_needs():
    ports = {"database": 1001, "vault": 1002, "temporal": 1003, "rootKeys": 1004, "web": 1005, "notifications": 1006}
    peer = {server: {"ipBlock": {"cidr": f"192.0.2.{number}/32"}} for number, server in enumerate(ports, 1)}
    callers = ("clients", "users", "events", "operators", "monitoring")
    policy: dict[str, Any] = {server: {"ports": [port], "peers": [peer[server]]} for server, port in ports.items()}
    policy |= {caller: [{"podSelector": {"matchLabels": {"caller": caller}}}] for caller in callers}
    manifests = rendered(EXAMPLE | {"networkPolicy": policy})

    deny = named(manifests, "NetworkPolicy", "default-deny")["spec"]
    assert deny["policyTypes"] == ["Ingress", "Egress"]
    assert not {"ingress", "egress"} & deny.keys()
    assert all(matches(deny["podSelector"]["matchLabels"], template) for template in pods(manifests))

    crypto = named(manifests, "NetworkPolicy", "crypto")["spec"]["podSelector"]
    for name, servers in SERVERS.items():
        spec = named(manifests, "NetworkPolicy", name)["spec"]
        allowed = {server_of(rule, peer, ports, crypto) for rule in spec["egress"]}
        assert allowed == servers | {"dns"}
        assert all(rule["ports"] for rule in spec["egress"])
        numbers = {port["name"]: port["containerPort"] for port in ports_of(manifests, name)}
        found = {rule["ports"][0]["port"]: callers_of(rule) for rule in spec.get("ingress", [])}
        extra = {"clients": {"worker"}}
        assert found == {numbers[port]: {caller} | extra.get(caller, set()) for port, caller in CALLERS[name].items()}


def test_only_processes_with_tracing_reach_the_collector():
    collector = {"ports": [{"protocol": "TCP", "port": 4318}], "to": [{"ipBlock": {"cidr": "192.0.2.9/32"}}]}
    peers = {"traces": {"ports": [4318], "peers": collector["to"]}}
    traced = changed(EXAMPLE, "settings.otlp_endpoint", "http://collector.monitoring:4318") | {"networkPolicy": peers}
    for values, expected in ((traced, {"worker", "marketplace", "crypto", "dashboard"}), (EXAMPLE, set())):
        manifests = rendered(values)
        rules = {name: named(manifests, "NetworkPolicy", name)["spec"]["egress"] for name in SERVERS}
        assert {name for name, found in rules.items() if collector in found} == expected
        assert {name for name, found in rules.items() if "4318" in str(found)} == expected


def test_the_worker_reaches_the_port_of_the_mail_server():
    def reached(values: Manifest) -> set[int]:
        rules = named(rendered(values), "NetworkPolicy", "worker")["spec"]["egress"]
        return {port["port"] for rule in rules for port in rule["ports"]}

    default, mail = Settings.model_fields["smtp_port"].default, changed(EXAMPLE, "settings.smtp_host", "mail.example")
    assert default not in reached(EXAMPLE)
    assert default in reached(mail)
    assert 587 in reached(changed(mail, "settings.smtp_port", 587))


def server_of(rule: Manifest, peer: dict[str, Manifest], ports: dict[str, int], crypto: Manifest) -> str:
    if rule["to"] == [{"podSelector": crypto}]:
        return "crypto"
    if {port["port"] for port in rule["ports"]} == {53}:
        return "dns"
    (server,) = (name for name in ports if rule["to"] == [peer[name]])
    assert [port["port"] for port in rule["ports"]] == [ports[server]]
    return server


def callers_of(rule: Manifest) -> set[str]:
    labels = [one["podSelector"]["matchLabels"] for one in rule["from"]]
    return {one.get("caller") or one["app.kubernetes.io/component"] for one in labels}


def ports_of(manifests: list[Manifest], name: str) -> list[Manifest]:
    return [] if name == "setup" else pod(manifests, name)["containers"][0]["ports"]


def test_crypto_service_keeps_its_journal_and_the_address_of_clients(example):
    spec = workload(example, "crypto")["spec"]
    assert [claim["metadata"]["name"] for claim in spec["volumeClaimTemplates"]] == ["state"]
    assert spec["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}
    assert spec["serviceName"] == named(example, "Service", "crypto-instances")["metadata"]["name"]
    assert named(example, "Service", "crypto")["spec"]["externalTrafficPolicy"] == "Local"


def test_setup_runs_only_on_request_and_never_replaces_secrets(minimal, example):
    assert not [one for one in minimal if "setup" in one["metadata"]["name"]]
    job = named(example, "Job", "setup")
    commands = [container["command"] for container in containers(job["spec"]["template"])]
    assert commands == [["/opt/openkcm/bin/openkcmctl", "setup", server] for server in ("database", "vault")]
    hooks = [one for one in example if "helm.sh/hook" in one["metadata"].get("annotations", {})]
    assert {one["kind"] for one in hooks} == {"Job", "ConfigMap", "ServiceAccount"}


def test_image_with_a_digest_is_used_by_it():
    manifests = rendered(changed(MINIMAL, "image.digest", f"sha256:{'a' * 64}"))
    used = {container["image"] for template in pods(manifests) for container in containers(template)}
    assert used == {f"openkcm@sha256:{'a' * 64}"}
