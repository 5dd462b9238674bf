"""`apply` on an empty server, compared with self-initialisation."""

import secrets
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from config.secrets import ensure_pair
from core.errors.platform import SecretsDiffer, VaultRefused
from core.existing_secrets import ExistingSecrets
from tests.vault.server import ROLES, Server, start, wanted_in
from vault.auth.client import TokenSession, VaultRejected, VaultSession, token_session
from vault.auth.tenant_tokens import TenantTokens
from vault.health import KeyServerProbe
from vault.setup import SetupConfig, apply, require_same_secrets


@pytest.fixture
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = start(tmp_path_factory.mktemp("bare"), bare=True)
    yield server
    server.kill()


def test_apply_builds_what_self_initialisation_builds_and_a_killed_server_keeps_it(
    bare: Server, server: Server
) -> None:
    admin = bare.admin()
    apply(admin, wanted_in(bare.folder))
    first = _state(admin)
    apply(admin, wanted_in(bare.folder))
    assert _state(admin) == first
    assert _shape(first) == _shape(_state(server.admin()))
    assert bare.session("worker").read("transit/keys/audit-checkpoints") is not None
    bare.kill()
    bare.start_again()
    assert _state(bare.admin()) == first


@pytest.mark.integration
def test_setup_and_processes_work_in_a_namespace(bare: Server) -> None:
    admin = bare.admin()
    admin.write("sys/namespaces/openkcm")
    token = admin.request("POST", "auth/token/create")
    inside = token_session(bare.url, token["auth"]["client_token"], namespace="openkcm")
    for _ in range(2):
        apply(inside, wanted_in(bare.folder))
    secret_id = (bare.folder / "worker.secret").read_text(encoding="ascii")
    worker = VaultSession(bare.url, "worker", secret_id, namespace="openkcm")
    assert worker.read("transit/keys/audit-checkpoints") is not None
    probe = KeyServerProbe(worker.for_token(""))
    probe.probe()
    assert probe.state == "ok"


def test_setup_role_restores_a_weakened_policy(server: Server) -> None:
    admin = server.admin()
    before = _state(admin)
    admin.write("sys/policies/acl/openkcm-worker", {"policy": 'path "*" { capabilities = ["read"] }'})
    apply(server.session("setup"), wanted_in(server.folder))
    assert _shape(_state(admin)) == _shape(before)


def others_in(folder: Path, server: Server) -> SetupConfig:
    """Return a setup with other secrets for the processes, and another key for tenant tokens."""
    wanted = wanted_in(folder)
    for file in wanted.secret_id_files.values():
        file.write_text(secrets.token_hex(32), encoding="ascii")
    ensure_pair(folder, "identity.pem", "identity.pub")
    setup = wanted_in(server.folder).secret_id_files["setup"]
    return replace(wanted, secret_id_files=wanted.secret_id_files | {"setup": setup})


def accepts(server: Server, folder: Path) -> set[str]:
    """Return which processes, and which tenant token, the server accepts with the secrets in a folder."""
    accepted = set()
    for role in ROLES:
        with suppress(VaultRefused):
            VaultSession(server.url, role, (folder / f"{role}.secret").read_text(encoding="ascii")).read(
                "auth/token/lookup-self"
            )
            accepted.add(role)
    with suppress(VaultRefused):
        TenantTokens(server.admin(), (folder / "identity.pem").read_text(encoding="ascii")).session("acme-corp-1")
        accepted.add("tenant")
    return accepted


@pytest.mark.integration
def test_setup_with_other_secrets_changes_nothing(bare: Server, tmp_path: Path) -> None:
    admin = bare.admin()
    apply(admin, wanted_in(bare.folder))
    before = _state(admin)
    for wanted in (wanted_in(tmp_path), others_in(tmp_path, bare)):  # without files, and with other ones
        public_key = wanted.boundary_public_key_file
        with pytest.raises(SecretsDiffer) as refused:
            require_same_secrets(admin, wanted, public_key.read_text().strip() if public_key.exists() else None)
        for part in ("openkcm-worker", "openkcm-crypto", "identity.pub"):
            assert part in refused.value.message
    assert _state(admin) == before
    assert accepts(bare, bare.folder) == {*ROLES, "tenant"}
    assert accepts(bare, tmp_path) == set()


@pytest.mark.integration
def test_secrets_are_replaced_without_an_interruption(bare: Server, tmp_path: Path) -> None:
    admin = bare.admin()
    apply(admin, wanted_in(bare.folder))
    others = others_in(tmp_path, bare)
    for _ in range(2):
        apply(admin, others, ExistingSecrets.ADD)
        assert accepts(bare, bare.folder) == {*ROLES, "tenant"}
        assert accepts(bare, tmp_path) == {*ROLES, "tenant"} - {"setup"}
    apply(admin, others)  # an upgrade meanwhile
    assert accepts(bare, bare.folder) == {*ROLES, "tenant"}
    for session in (bare.session("setup"), admin):
        apply(session, others, ExistingSecrets.REPLACE)
        assert accepts(bare, bare.folder) == {"setup"}
        assert accepts(bare, tmp_path) == {*ROLES, "tenant"} - {"setup"}


def test_no_root_token_is_left(server: Server) -> None:
    admin = server.admin()
    policies = [
        admin.write("auth/token/lookup-accessor", {"accessor": accessor})["policies"]
        for accessor in admin.list("auth/token/accessors")
    ]
    assert policies
    assert all("root" not in each for each in policies)


def test_encrypt_does_not_create_a_key(server: Server) -> None:
    admin = server.admin()
    with pytest.raises(VaultRejected, match="key not found"):
        admin.write("transit/encrypt/never-made", {"plaintext": "aGk="})
    assert admin.read("transit/keys/never-made") is None


def _state(admin: TokenSession) -> dict[str, Any]:
    paths = (
        "transit/keys/audit-checkpoints",
        "transit/keys/payloads-platform",
        "transit/keys/fingerprints",
        "transit/config/keys",
        "pki/cert/ca",
        *(f"sys/policies/acl/openkcm-{policy}" for policy in (*ROLES, "tenant")),
        *(f"auth/approle/role/openkcm-{role}" for role in ROLES),
        "pki/roles/crypto-server",
        "auth/jwt/role/tenant",
        "auth/jwt/config",
    )
    state: dict[str, Any] = {path: admin.read(path) for path in paths}
    for policy in (*ROLES, "tenant"):
        for counted in ("modified", "version"):
            del state[f"sys/policies/acl/openkcm-{policy}"][counted]
    return state | {"issuers": admin.list("pki/issuers")}


def _shape(state: dict[str, Any]) -> dict[str, Any]:
    """Return the state without server-specific values: keys, times, and the accessor of the JWT mount."""
    policy = state["sys/policies/acl/openkcm-tenant"]["policy"]
    before, _, after = policy.partition("identity.entity.aliases.")
    assert after.startswith("auth_jwt_")
    return {
        "tenant policy": (before, len(policy)),
        "roles": [state[path] for path in state if "/role" in path],
        "policies": [state[f"sys/policies/acl/openkcm-{role}"]["policy"].strip() for role in ROLES],
        "upsert": state["transit/config/keys"],
        "keys": [
            state[f"transit/keys/{name}"]["type"] for name in ("audit-checkpoints", "payloads-platform", "fingerprints")
        ],
        "issuers": len(state["issuers"]),
    }


def test_wrong_secret_ids_lock_no_process_out(server: Server) -> None:
    """Role ids are names, so anyone who reaches the server could lock a role out; a forgotten host would too."""
    for _ in range(12):
        with pytest.raises(VaultRefused):
            VaultSession(server.url, "crypto", "wrong").read("auth/token/lookup-self")
    assert server.session("crypto").read("auth/token/lookup-self") is not None
    assert server.admin().read("sys/locked-users")["total"] == 0
