import shutil
from pathlib import Path

import pytest

from config.secrets import Role, read_secret, vault_secret
from devstack.secrets import BOUNDARY_PUBLIC_KEY, ensure_secrets
from devstack.server import Server
from tenancy.errors import ComponentFailed
from tests.devstack.conftest import NewServer
from vault.session import VaultSession


def test_a_failed_first_boot_is_recovered_by_the_next(new_server: NewServer) -> None:
    server = new_server("openbao")
    secrets = server.state_dir / "secrets"
    (secrets / BOUNDARY_PUBLIC_KEY).unlink()
    server.prepare()
    server.start()
    with pytest.raises(ComponentFailed):
        server.wait_ready(60)
    ensure_secrets(secrets)

    server.start()
    server.wait_ready(60)

    assert "openkcm-worker" in policies_of_worker(server)


def test_a_boot_on_record_protects_the_data(new_server: NewServer) -> None:
    server = new_server("openbao")
    server.prepare()
    server.start()
    server.wait_ready(60)
    server.kill()
    # Of all that could break a later start, the loss of the key is the worst: the data must outlive it.
    seal_key = server.folder / "unseal.key"
    aside = shutil.move(seal_key, server.folder / "aside")
    server.start()
    with pytest.raises(ComponentFailed):
        server.wait_ready(60)

    Path(aside).rename(seal_key)
    server.start()
    server.wait_ready(60)

    assert "openkcm-worker" in policies_of_worker(server)


def test_no_secret_is_in_the_configuration_and_no_file_is_open_to_others(new_server: NewServer) -> None:
    server = new_server("openbao")
    server.prepare()
    server.start()
    server.wait_ready(60)

    configuration = (server.folder / "openbao.hcl").read_text(encoding="utf-8")
    secrets = server.state_dir / "secrets"
    assert not [file.name for file in secrets.iterdir() if file.read_text(encoding="utf-8") in configuration]
    assert not [file for file in (server.folder, *server.folder.iterdir()) if file.stat().st_mode & 0o077]


def policies_of_worker(server: Server) -> list[str]:
    secret = read_secret(server.state_dir / "secrets", vault_secret(Role.WORKER))
    session = VaultSession(server.address, Role.WORKER, secret)
    return list((session.read("auth/token/lookup-self") or {})["policies"])
