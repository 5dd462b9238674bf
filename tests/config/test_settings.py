import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from config.networks import webhook_networks
from config.settings import (
    CONFIG_VARIABLE,
    LOOPBACK,
    PREFIX,
    Settings,
    WorkloadIssuer,
    config_file,
    default_state_dir,
    load_settings,
)
from core.errors.platform import SettingsInvalid

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def settings_file(monkeypatch, tmp_path):
    """An empty settings file, and an environment that names it and no other setting."""
    for field in Settings.model_fields:
        monkeypatch.delenv(f"{PREFIX}{field}".upper(), raising=False)
    file = tmp_path / "openkcm.toml"
    file.touch()
    monkeypatch.setenv(CONFIG_VARIABLE, str(file))
    return file


def test_defaults_use_embedded_servers_on_loopback():
    settings = load_settings()
    addresses = (settings.vault_url, settings.postgres_url, settings.temporal_address, settings.marketplace_url)
    assert all("127.0.0.1:" in address for address in addresses)
    hosts = {name: value for name, value in settings.model_dump().items() if name.endswith("_host") and value}
    assert hosts == dict.fromkeys(
        (
            "marketplace_host",
            "codec_host",
            "crypto_host",
            "crypto_metrics_host",
            "worker_metrics_host",
            "dashboard_host",
        ),
        LOOPBACK,
    )
    assert settings.secrets == settings.state_dir / "secrets"


def test_clients_reach_the_crypto_service_under_its_public_name_and_ports():
    behind = Settings(
        crypto_host="0.0.0.0",  # noqa: S104 - no socket is opened
        crypto_names=("kcm.example", "10.0.0.5"),
        crypto_https_port=8443,
        crypto_https_public_port=443,
    )
    assert behind.crypto_https_url == "https://kcm.example:443"
    assert behind.crypto_kmip_address == f"kcm.example:{behind.crypto_kmip_port}"
    assert behind.crypto_ports == (443, behind.crypto_kmip_port)


def test_environment_overrides_file_and_file_overrides_default(monkeypatch, settings_file):
    settings_file.write_text('vault_port = 1111\npostgres_port = 2222\nregions = ["us-east-1"]\n')
    monkeypatch.setenv("OPENKCM_VAULT_PORT", "3333")
    settings = load_settings()
    assert (settings.vault_port, settings.postgres_port, settings.temporal_port) == (3333, 2222, 17233)
    assert settings.regions == ("us-east-1",)


def test_list_is_read_from_the_environment_as_json(monkeypatch):
    monkeypatch.setenv("OPENKCM_REGIONS", '["eu-west-1", "us-east-1"]')
    assert load_settings().regions == ("eu-west-1", "us-east-1")


@pytest.mark.parametrize("name", ["OPENKCM_VAULT_PROT", "OPENKCM_PASSWORD", "openkcm_unknown"])
def test_unknown_environment_variable_is_rejected_by_name(monkeypatch, name):
    monkeypatch.setenv(name, "hunter2")
    with pytest.raises(SettingsInvalid) as rejected:
        load_settings()
    assert name in rejected.value.message
    assert "hunter2" not in rejected.value.message + rejected.value.hint


def test_unknown_key_in_the_file_is_rejected_by_name(settings_file):
    settings_file.write_text('vault_prot = "hunter2"\n')
    with pytest.raises(SettingsInvalid) as rejected:
        load_settings()
    assert "vault_prot" in rejected.value.message
    assert "hunter2" not in rejected.value.message


@pytest.mark.parametrize(
    ("name", "meant"), [("OPENKCM_VAULT_PROT", "OPENKCM_VAULT_PORT"), ("openkcm_base_ulr", "OPENKCM_BASE_URL")]
)
def test_unknown_environment_variable_is_answered_with_the_closest_known_one(monkeypatch, name, meant):
    monkeypatch.setenv(name, "hunter2")
    with pytest.raises(SettingsInvalid) as rejected:
        load_settings()
    assert rejected.value.hint == f"for {name} use {meant}; see docs/settings.md"


def test_unknown_key_in_the_file_is_answered_with_the_file_and_the_closest_known_one(settings_file):
    settings_file.write_text('database_ulr = "hunter2"\nzzz = 1\n')
    with pytest.raises(SettingsInvalid) as rejected:
        load_settings()
    places = [f"{name} in {settings_file}: unknown setting" for name in ("database_ulr", "zzz")]
    assert rejected.value.message == f"invalid settings: {'; '.join(places)}"
    assert rejected.value.hint == "for database_ulr use database_url; see docs/settings.md"


def test_invalid_value_is_rejected_with_its_source(monkeypatch, settings_file):
    settings_file.write_text('vault_port = 0\nworkload_issuers = {a = {jwks = "/a", tenants_claim = "b"}}\n')
    monkeypatch.setenv("OPENKCM_POSTGRES_PORT", "0")
    monkeypatch.setenv("OPENKCM_VAULT_PORT", "")
    with pytest.raises(SettingsInvalid) as rejected:
        load_settings()
    for place in (
        f"vault_port in {settings_file}: ",
        "postgres_port in environment variable OPENKCM_POSTGRES_PORT: ",
        f"workload_issuers.a.tenants_claim in {settings_file}: Extra",
    ):
        assert place in rejected.value.message
    assert rejected.value.hint == "see docs/settings.md"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OPENKCM_VAULT_PORT", "hunter2"),
        ("OPENKCM_VAULT_PORT", "0"),
        ("OPENKCM_VAULT_PORT", "65536"),
        ("OPENKCM_REGIONS", '["hunter2"]'),
        ("OPENKCM_REGIONS", "[]"),
        ("OPENKCM_REGIONS", "hunter2"),
        ("OPENKCM_AWS_PRINCIPAL", "hunter2"),
        ("OPENKCM_AWS_PRINCIPAL", "arn:aws:sts::999988887777:assumed-role/openkcm/hunter2"),
        ("OPENKCM_TEMPORAL", "hunter2"),
        ("OPENKCM_PROVISIONING_SLO_SECONDS", "0"),
        ("OPENKCM_LOG_FORMAT", "hunter2"),
    ],
)
def test_invalid_value_is_rejected_without_its_value(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsInvalid) as rejected:
        load_settings()
    assert "hunter2" not in rejected.value.message + rejected.value.hint


def test_a_named_file_must_exist(monkeypatch, tmp_path):
    monkeypatch.setenv("OPENKCM_CONFIG", str(tmp_path / "absent.toml"))
    with pytest.raises(SettingsInvalid, match="which is not a file"):
        load_settings()


def test_file_that_is_not_toml_is_rejected(settings_file):
    settings_file.write_text("vault_port: 1111\n")
    with pytest.raises(SettingsInvalid, match="not readable as TOML"):
        load_settings()


def test_unreadable_file_is_rejected(monkeypatch):
    monkeypatch.setenv("OPENKCM_CONFIG", "x" * 300)
    with pytest.raises(SettingsInvalid, match="cannot be read: file name too long"):
        load_settings()


def test_state_folder_and_settings_file_do_not_depend_on_the_working_directory(monkeypatch, tmp_path):
    monkeypatch.delenv(CONFIG_VARIABLE)
    (tmp_path / "openkcm.toml").write_text('state_dir = "of-another-user"\n')
    for folder in (tmp_path, Path("/"), CHECKOUT):
        monkeypatch.chdir(folder)
        assert default_state_dir() == CHECKOUT / ".openkcm"
        assert config_file() == CHECKOUT / "openkcm.toml"


@pytest.mark.integration  # starts a process
def test_installed_package_has_the_folders_of_the_system(tmp_path):
    for package in (CHECKOUT / "config", CHECKOUT / "core", CHECKOUT / "client/src/openkcm"):
        shutil.copytree(package, tmp_path / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    program = "from config.settings import *; print(default_state_dir(), config_file())"
    environment = {name: value for name, value in os.environ.items() if name != CONFIG_VARIABLE}
    printed = subprocess.check_output(
        [sys.executable, "-c", program], cwd="/", env=environment | {"PYTHONPATH": str(tmp_path)}, text=True
    )
    assert printed.split() == ["/var/lib/openkcm", "/etc/openkcm/openkcm.toml"]


def test_relative_path_in_the_file_is_relative_to_its_folder(monkeypatch, tmp_path, settings_file):
    settings_file.write_text(
        'state_dir = "state"\nvault_ca_file = "/etc/ca.pem"\nsecrets_dir = "../secrets"\n'
        'vault_audit_logs = ["a/audit.log", "/logs/b/audit.log"]\n'
    )
    monkeypatch.chdir("/")

    settings = load_settings()

    assert settings.state_dir == tmp_path / "state"
    assert settings.vault_ca_file == Path("/etc/ca.pem")
    assert settings.secrets.resolve() == tmp_path.parent / "secrets"
    assert settings.vault_audit_logs == (tmp_path / "a/audit.log", Path("/logs/b/audit.log"))


def test_path_of_a_wrong_type_in_the_file_is_rejected(settings_file):
    settings_file.write_text("state_dir = 1\n")
    with pytest.raises(SettingsInvalid, match="state_dir"):
        load_settings()


def test_settings_are_immutable():
    with pytest.raises(ValueError, match="frozen"):
        load_settings().vault_port = 1


def test_every_setting_has_a_description():
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_crypto_name_is_a_name_in_the_certificate():
    assert Settings().crypto_name == LOOPBACK
    everywhere = Settings(crypto_host="0.0.0.0", crypto_names=("kms.example", "10.0.0.7"))  # noqa: S104 - the case
    assert everywhere.crypto_name == "kms.example"
    assert Settings(crypto_host="10.0.0.7", crypto_names=("kms.example", "10.0.0.7")).crypto_name == "10.0.0.7"


@pytest.mark.parametrize("jwks", ["https://keys.example/jwks", "http://127.0.0.1:1/jwks", "/etc/openkcm/jwks.json"])
def test_issuer_keys_are_accepted_at_https_or_in_a_file(jwks):
    assert WorkloadIssuer(jwks=jwks).jwks == jwks


@pytest.mark.parametrize(
    "jwks", ["http://keys.example", "https://user:word@keys.example", "https:///jwks", "https://x/#y", "jwks.json"]
)
def test_issuer_keys_are_rejected_at_other_addresses(jwks):
    with pytest.raises(ValueError, match="https address"):
        WorkloadIssuer(jwks=jwks)


def test_derived_settings_follow_from_the_addresses_of_the_servers():
    embedded, own = Settings(), Settings(vault_address="https://vault.example:8200")
    assert embedded.key_server_networks == ("127.0.0.0/8",)
    assert own.key_server_networks == ()
    assert Settings(root_key_networks=("10.20.0.0/16",)).key_server_networks == ("10.20.0.0/16",)
    with pytest.raises(ValueError, match="a network such as"):
        Settings(root_key_networks=("10.20.0.1/16",))
    assert embedded.key_server_logs
    assert own.key_server_logs == ()
    assert embedded.enrolment_url == embedded.marketplace_url
    assert Settings(base_url="https://cmk.example/").dashboard_url == "https://cmk.example"
    principal = "arn:aws:iam::111122223333:role/openkcm"
    assert Settings(aws_principal=principal).aws_principal == principal


def test_token_is_assigned_to_one_valid_tenant(monkeypatch) -> None:
    monkeypatch.setenv("OPENKCM_PKCS11_TOKENS", '{"HSM 1": "acme-corp"}')
    assert load_settings().pkcs11_tokens == {"HSM 1": "acme-corp"}
    monkeypatch.setenv("OPENKCM_PKCS11_TOKENS", '{"HSM 1": "*"}')
    with pytest.raises(SettingsInvalid, match=r"HSM 1 in .*: Value error, invalid tenant id"):
        load_settings()


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("RETENTION_DAYS", '{"outbox": 29}', "outbox: at least 30 days"),
        ("RETENTION_DAYS", '{"audit_event": 4000}', "audit_event has no retention in days"),
        ("AUDIT_RETENTION_DAYS", "89", "greater than or equal to 90"),
    ],
)
def test_retention_below_its_minimum_is_rejected(monkeypatch, variable, value, message):
    monkeypatch.setenv(f"OPENKCM_{variable}", value)
    with pytest.raises(SettingsInvalid, match=message):
        load_settings()


def test_retention_of_tables_and_the_archive_folder_are_chosen_by_settings(monkeypatch, tmp_path):
    assert load_settings().audit_archive == load_settings().state_dir / "audit-archive"
    monkeypatch.setenv("OPENKCM_RETENTION_DAYS", '{"outbox": 400}')
    monkeypatch.setenv("OPENKCM_AUDIT_ARCHIVE_DIR", str(tmp_path))
    settings = load_settings()
    assert (settings.retention_days, settings.audit_archive) == ({"outbox": 400}, tmp_path)


@pytest.mark.parametrize("address", ["http://marketplace.example", "http://10.0.0.2:8080", "ftp://localhost", "market"])
def test_address_for_agents_without_tls_is_rejected(address):
    with pytest.raises(ValueError, match="https address"):
        Settings(marketplace_base_url=address)


def test_address_for_agents_is_https_or_on_loopback():
    for address in ("https://marketplace.example", "http://127.0.0.1:18080"):
        assert Settings(marketplace_base_url=address).enrolment_url == address


def test_webhooks_are_allowed_outside_public_addresses_only_by_setting_or_in_the_development_stack() -> None:
    assert webhook_networks(Settings()) == ("127.0.0.0/8",)
    assert webhook_networks(Settings(vault_address="https://vault.example")) == ()
    own = Settings(vault_address="https://vault.example", root_key_networks=("10.20.0.0/16",))
    assert webhook_networks(own) == ()
    assert webhook_networks(Settings(webhook_networks=("10.30.0.0/16",))) == ("10.30.0.0/16",)
