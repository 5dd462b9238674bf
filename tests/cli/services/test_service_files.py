"""The folder of a service: the key is created once, the files are private and fit the software of the service."""

import json
import ssl
import subprocess
import sys
import tomllib
from datetime import datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from core.errors.platform import TemporalUnavailable
from openkcm.errors import FolderRefused
from tests.cli.services.service_stand import a_request


def test_a_mongodb_folder_has_a_valid_chain_and_a_new_certificate_keeps_the_key(command) -> None:
    command.connect()

    context = ssl.create_default_context(cafile=str(command.out / "ca.pem"))
    context.load_cert_chain(command.out / "client.pem", command.out / "client.key")
    context.load_cert_chain(command.out / "mongodb.pem")
    leaf, authority = x509.load_pem_x509_certificates((command.out / "client.pem").read_bytes())
    [root] = x509.load_pem_x509_certificates((command.out / "ca.pem").read_bytes())
    leaf.verify_directly_issued_by(authority)
    authority.verify_directly_issued_by(root)
    root.verify_directly_issued_by(root)
    options = json.loads((command.out / "csfle.json").read_text())
    assert options["kms_providers"] == {"kmip": {"endpoint": "127.0.0.1:15696"}}
    for file in options["kms_tls_options"]["kmip"].values():
        assert Path(file).is_absolute()
        assert Path(file).parent == command.out
    mongod = (command.out / "mongod.yaml").read_text()
    assert f'clientCertificateFile: "{command.out}/mongodb.pem"' in mongod
    assert 'serverName: "127.0.0.1"\n    port: 15696' in mongod

    key = (command.out / "client.key").read_bytes()
    command.connect()
    assert (command.out / "client.key").read_bytes() == key
    assert command.leaf.serial_number != leaf.serial_number
    assert command.leaf.public_key() == leaf.public_key()
    [service] = command.list()
    assert datetime.fromisoformat(service["certificate_not_after"]) == command.leaf.not_valid_after_utc


def test_a_postgresql_folder_has_sql_and_a_microservice_folder_has_toml(command, tmp_path) -> None:
    command.connect("postgresql", "billing", out=tmp_path / "it's billing")
    sql = (tmp_path / "it's billing" / "pg_tde.sql").read_text()
    assert "kmip_port      => 15696" in sql
    assert f"{str(tmp_path).replace(chr(39), chr(39) * 2)}/it''s billing/client.key'" in sql

    command.connect("microservice", "mail", out=tmp_path / "mail")
    read = tomllib.loads((tmp_path / "mail" / "client.toml").read_text())
    assert read == {
        "https": "https://127.0.0.1:18443",
        "kmip": "127.0.0.1:15696",
        "certificate": f"{tmp_path}/mail/client.pem",
        "key": f"{tmp_path}/mail/client.key",
        "ca": f"{tmp_path}/mail/ca.pem",
    }
    assert not (tmp_path / "mail" / "mongodb.pem").exists()


def test_concurrent_commands_leave_one_key_and_its_certificate(command) -> None:
    words = [sys.executable, "-m", "cli", "service", "connect", command.tenant_id, "--kind", "mongodb"]
    words += ["--name", "orders-db", "--out", str(command.out), "--json"]
    processes = [subprocess.Popen(words, stdout=subprocess.PIPE) for _ in range(2)]
    answers = [json.loads(one.communicate(timeout=120)[0]) for one in processes]
    # A command whose certificate was superseded reports that; the folder is complete in any case.
    assert [answer for answer in answers if "certificate_not_after" in answer], answers
    assert {answer["error"]["code"] for answer in answers if "error" in answer} <= {"superseded"}
    key = serialization.load_pem_private_key((command.out / "client.key").read_bytes(), None)
    assert command.leaf.public_key() == key.public_key()


def test_a_certificate_request_writes_a_folder_without_a_key(command, tmp_path) -> None:
    command.connect(csr=a_request(tmp_path), out=command.out)
    assert {path.name for path in command.out.iterdir()} == {"client.pem", "ca.pem"}
    command.run("service", "list", command.tenant_id)
    command.connect("microservice", "mail", out=tmp_path / "mail")
    with pytest.raises(FolderRefused):
        command.connect("microservice", "mail", csr=a_request(tmp_path), out=tmp_path / "mail")


def test_an_unusable_folder_or_key_is_rejected_and_left_unchanged(command) -> None:
    def assert_rejected(*service: str) -> None:
        with pytest.raises(FolderRefused):
            command.connect(*service, out=command.out)

    command.out.write_text("")
    assert_rejected()
    command.out.unlink()
    command.out.mkdir(mode=0o755)
    assert_rejected()
    assert list(command.out.iterdir()) == []
    command.out.rmdir()
    command.connect()
    key, before = command.out / "client.key", {path.name: path.read_bytes() for path in command.out.iterdir()}
    assert_rejected("microservice", "mail")
    key.chmod(0o644)
    assert_rejected()
    assert {path.name: path.read_bytes() for path in command.out.iterdir()} == before
    key.chmod(0o600)
    key.write_text("nonsense")
    assert_rejected()
    assert key.read_text() == "nonsense"


def test_an_unreachable_temporal_is_reported_and_the_key_is_kept_for_the_next_attempt(
    command, free_port, monkeypatch, temporal
) -> None:
    monkeypatch.setenv("OPENKCM_TEMPORAL_PORT", str(free_port))
    with pytest.raises(TemporalUnavailable):
        command.connect()
    key = (command.out / "client.key").read_bytes()
    monkeypatch.setenv("OPENKCM_TEMPORAL_PORT", str(temporal.port))
    command.connect()
    assert (command.out / "client.key").read_bytes() == key
