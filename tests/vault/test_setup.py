"""`apply` on an empty server, compared with self-initialisation."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.vault.server import ROLES, Server, start, wanted_in
from vault.auth.client import TokenSession, VaultRejected
from vault.setup import apply


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


def test_setup_role_restores_a_weakened_policy(server: Server) -> None:
    admin = server.admin()
    before = _state(admin)
    admin.write("sys/policies/acl/openkcm-worker", {"policy": 'path "*" { capabilities = ["read"] }'})
    apply(server.session("setup"), wanted_in(server.folder))
    assert _shape(_state(admin)) == _shape(before)


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
