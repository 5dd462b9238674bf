import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from compliance.reconciliation.vault_log import files_of, read_log
from config.secrets import BOUNDARY_PUBLIC_KEY, Role, ensure_secrets, read_secret, vault_secret
from config.settings import EMBEDDED_LOG, Settings
from core.errors.platform import ComponentFailed, VaultUnavailable
from devstack.doctor import Finding, _check, _vault
from devstack.servers.base import Server
from devstack.servers.openbao import OpenBaoServer
from devstack.servers.ports import free_port
from devstack.stack.components import components
from tests.concurrency import wait_until
from tests.devstack.conftest import NewServer, build, run
from vault.auth.client import VaultSession
from vault.setup import SETUP

pytestmark = pytest.mark.integration


def test_failed_first_boot_is_recovered_by_the_next(new_server: NewServer) -> None:
    server = new_server("openbao")
    secrets = server.state_dir / "secrets"
    (secrets / BOUNDARY_PUBLIC_KEY).unlink()
    with pytest.raises(ComponentFailed):
        run(server)
    ensure_secrets(secrets)

    server.start()
    server.wait_ready(90)

    assert "openkcm-worker" in policies_of_worker(server)


def test_interrupted_first_boot_leaves_no_fault_in_the_audit_log(new_server: NewServer) -> None:
    server = new_server("openbao")
    log = server.state_dir / EMBEDDED_LOG
    server.prepare()
    server.start()
    # The moment of Ctrl-C during the first `make up`: the server has logged its first requests.
    wait_until(lambda: log.exists() and log.read_bytes().count(b"initialize[") > 20)
    server.kill()
    assert not (server.folder / "booted").exists()

    run(server)

    read = read_log(files_of(log))
    assert read.lines > 0
    assert read.faults == []


def test_recorded_boot_protects_the_data_and_no_secret_is_readable(new_server: NewServer) -> None:
    server = run(new_server("openbao"))
    configuration = (server.folder / "openbao.hcl").read_text(encoding="utf-8")
    secrets = [*(server.state_dir / "secrets").iterdir(), server.folder / "setup-secret-id"]
    assert not [file.name for file in secrets if file.read_text(encoding="utf-8") in configuration]
    assert not [file for file in (server.folder, *server.folder.iterdir()) if file.stat().st_mode & 0o077]

    server.kill()
    # The loss of the key is the worst obstacle to a later start: the data must survive it.
    seal_key = server.folder / "unseal.key"
    aside = shutil.move(seal_key, server.folder / "aside")
    server.start()
    with pytest.raises(ComponentFailed):
        server.wait_ready(90)

    Path(aside).rename(seal_key)
    server.start()
    server.wait_ready(90)

    assert "openkcm-worker" in policies_of_worker(server)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = run(build("openbao", tmp_path_factory.mktemp("openbao")))
    yield server
    server.stop()


@pytest.fixture
def server(running: Server, tmp_path: Path) -> OpenBaoServer:
    """The running server with a copy of its files, which a test may change."""
    shutil.copytree(running.state_dir, tmp_path / "state", ignore=shutil.ignore_patterns("data", "*.log"))
    return at_port(tmp_path / "state", running.port)


def at_port(state_dir: Path, port: int, crypto_names: tuple[str, ...] = ()) -> OpenBaoServer:
    return OpenBaoServer(state_dir, port, state_dir / "secrets", *([crypto_names] if crypto_names else []))


def test_server_of_an_older_version_gets_new_policies_and_keeps_its_keys(server: OpenBaoServer) -> None:
    setup = VaultSession(server.address, SETUP, read_secret(server.folder, "setup-secret-id"))
    key = worker_of(server).write("transit/keys/L2-acme-corp-12345-primary", {"type": "aes256-gcm96", "derived": True})
    current = {role: setup.read(policy_of(role)) or {} for role in ("worker", "crypto", "setup")}
    # The state of an older version: fewer rights for the worker, none for the crypto service, and a setup role without
    # access to the role for server certificates.
    older = current["setup"]["policy"].replace('path "pki/roles/crypto-server"', 'path "nothing"')
    for role, policy in {"worker": 'path "nothing" {}', "crypto": 'path "nothing" {}', "setup": older}.items():
        setup.write(policy_of(role), {"policy": policy})
    (server.folder / "applied").write_text("the digest of that version", encoding="utf-8")

    server.bring_up_to_date()

    for role, policy in current.items():
        assert (setup.read(policy_of(role)) or {})["policy"].strip() == policy["policy"].strip()
    record = worker_of(server).read("transit/keys/L2-acme-corp-12345-primary") or {}
    assert record["keys"] == key["keys"]


def test_current_server_gets_no_request(server: OpenBaoServer) -> None:
    stopped = at_port(server.state_dir, free_port())

    stopped.bring_up_to_date()

    (stopped.folder / "applied").unlink()
    with pytest.raises(VaultUnavailable):
        stopped.bring_up_to_date()


def test_changed_names_of_the_crypto_service_reach_its_role(server: OpenBaoServer) -> None:
    at_port(server.state_dir, server.port, ("kms.example", "10.1.2.3")).bring_up_to_date()

    setup = VaultSession(server.address, SETUP, read_secret(server.folder, "setup-secret-id"))
    role = setup.read("pki/roles/crypto-server") or {}
    assert role["allowed_domains"] == ["kms.example"]
    assert role["allowed_ip_sans_cidr"] == ["10.1.2.3/32"]


def test_server_without_the_setup_role_is_reported_and_not_changed(server: OpenBaoServer) -> None:
    # The server rejects an unknown secret and an unknown role in the same way.
    (server.folder / "setup-secret-id").write_text("0" * 64, encoding="utf-8")
    (server.folder / "applied").unlink()

    with pytest.raises(ComponentFailed, match="older version") as refused:
        server.bring_up_to_date()

    assert "start again" in refused.value.hint
    assert not (server.folder / "applied").exists()


def test_processes_that_need_new_policies_wait_for_them_unless_the_server_is_new(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path)
    assert not [found.name for found in components(settings) if "policies" in found.after]
    (tmp_path / "openbao").mkdir()
    (tmp_path / "openbao" / "booted").touch()

    assert [found.name for found in components(settings) if "policies" in found.after] == ["worker", "crypto"]


def test_doctor_names_processes_without_a_policy(server: OpenBaoServer) -> None:
    settings = Settings(state_dir=server.state_dir, vault_address=server.address)

    assert finding(settings).ok
    # The state of an operator's server that was last set up by a version without this process.
    (settings.secrets / vault_secret(Role.CRYPTO)).write_text("0" * 64, encoding="utf-8")

    assert not finding(settings).ok
    assert "crypto" in finding(settings).detail
    assert "worker" not in finding(settings).detail


def finding(settings: Settings) -> Finding:
    return _check("openbao", _vault, "", settings)


def worker_of(server: Server) -> VaultSession:
    return VaultSession(
        server.address, Role.WORKER, read_secret(server.state_dir / "secrets", vault_secret(Role.WORKER))
    )


def policies_of_worker(server: Server) -> list[str]:
    return list((worker_of(server).read("auth/token/lookup-self") or {})["policies"])


def policy_of(role: str) -> str:
    return f"sys/policies/acl/openkcm-{role}"
