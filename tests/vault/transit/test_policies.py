"""The denials for each process and each tenant, on a real server."""

import pytest

from core import names as ids
from core.errors.platform import VaultRefused
from tests.contracts.authorities import nothing_recorded
from tests.vault.server import Server
from vault.auth.client import TokenSession, VaultClient, VaultSession
from vault.auth.tenant_tokens import InlineTenants, TenantTokens
from vault.pki.authorities import PkiAuthorities
from vault.setup import LOCKS_MOUNT
from vault.transit.payload_keys import TransitPayloadKeys
from vault.transit.root_keys import TransitRootKeys
from vault.transit.tenant_keys import FINGERPRINT_TEXT, TransitTenantKeys

Attempt = tuple[str, str, dict[str, object] | None]
TENANT = "policies-corp-1"
NAMES = {
    "l2": ids.l2_key(TENANT),
    "ca": ids.ca_key(TENANT),
    "payload": ids.payload_key(TENANT),
    "root": ids.root_key("eu-west-1"),
}
PLATFORM_KEYS = ("{root}", "audit-checkpoints", "payloads-platform", "fingerprints")
ANOTHER_SYSTEMS_KEY = "another-systems-key"
TENANT_KEYS = ("{l2}", "{ca}", "{payload}")
CIPHERTEXT = {"ciphertext": "vault:v1:aGk=", "context": "aGk="}
PLAINTEXT = {"plaintext": "aGk=", "context": "aGk="}
USES: list[Attempt] = [
    ("POST", "transit/encrypt/{l2}", PLAINTEXT),
    ("POST", "transit/decrypt/{l2}", CIPHERTEXT),
    ("POST", "transit/rewrap/{l2}", CIPHERTEXT),
    ("POST", "transit/datakey/plaintext/{l2}", {"context": "aGk="}),
    ("POST", "transit/datakey/wrapped/{l2}", {"context": "aGk="}),
]
LOCK: list[Attempt] = [
    ("POST", f"{LOCKS_MOUNT}/{TENANT}", {"state": "locked"}),
    ("DELETE", f"{LOCKS_MOUNT}/{TENANT}", None),
]
"""Changes of a tenant's lock."""
LIST_KEYS: Attempt = ("LIST", "transit/keys", None)
"""Only the operator may list the names of keys."""
EVERY_IDENTITY: list[Attempt] = [
    *(
        (method, path.replace("KEY", key), data)
        for key in (*TENANT_KEYS, *PLATFORM_KEYS, ANOTHER_SYSTEMS_KEY)
        for method, path, data in (
            ("GET", "transit/export/encryption-key/KEY", None),
            ("GET", "transit/backup/KEY", None),
            ("POST", "transit/restore/KEY", {"backup": "aGk="}),
            ("POST", "transit/keys/KEY/import", {"type": "aes256-gcm96", "ciphertext": "aGk="}),
            ("POST", "transit/keys/KEY/config", {"exportable": True}),
            ("POST", "transit/keys/KEY/config", {"allow_plaintext_backup": True}),
            ("POST", "transit/keys/KEY/config", {"auto_rotate_period": "1h"}),
            ("POST", "transit/keys/KEY/config", {"min_decryption_version": 1, "deletion_allowed": True}),
        )
    ),
    *(
        (method, path.replace("KEY", key), data)
        for key in PLATFORM_KEYS
        for method, path, data in (
            ("DELETE", "transit/keys/KEY", None),
            ("DELETE", "transit/keys/KEY/soft-delete", None),
            ("POST", "transit/keys/KEY/config", {"deletion_allowed": True}),
            ("POST", "transit/keys/KEY/config", {"min_decryption_version": 1, "min_encryption_version": 1}),
            ("POST", "transit/keys/KEY/trim", {"min_available_version": 1}),
        )
    ),
    ("POST", "transit/rewrap/{root}", CIPHERTEXT),
    ("POST", "transit/datakey/plaintext/{root}", {"context": "aGk="}),
    ("POST", "transit/encrypt/root-smuggled", PLAINTEXT),
    ("POST", "transit/keys/root-smuggled", {"type": "aes256-gcm96", "derived": True, "exportable": True}),
    ("POST", "transit/keys/smuggled", {"type": "aes256-gcm96", "exportable": True}),
    ("POST", "transit/keys/smuggled/import", {"type": "aes256-gcm96", "ciphertext": "aGk="}),
    ("POST", "transit/config/keys", {"disable_upsert": False}),
    ("POST", "pki/root/sign-intermediate", {"csr": "x", "common_name": "x"}),
    ("POST", "pki/root/sign-self-issued", {"certificate": "x"}),
    ("POST", "pki/sign-verbatim", {"csr": "x"}),
    ("POST", "pki/sign-verbatim/crypto-server", {"csr": "x"}),
    ("POST", "pki/issuer/default/sign-verbatim", {"csr": "x"}),
    ("POST", "pki/issuer/root/sign-intermediate", {"csr": "x", "common_name": "x"}),
    ("POST", "pki/roles/crypto-server", {"client_flag": True}),
    ("POST", "pki/root/generate/internal", {"common_name": "x"}),
    ("DELETE", "pki/root", None),
    ("POST", "pki/revoke", {"serial_number": "00"}),
    ("POST", "auth/jwt/role/tenant", {"user_claim": "sub"}),
    ("POST", "auth/approle/role/openkcm-worker", {"token_policies": ["root"]}),
    ("POST", "auth/token/create", {"policies": ["root"]}),
    *(("POST", f"sys/policies/acl/openkcm-{role}", {"policy": ""}) for role in ("worker", "crypto", "offboarding")),
    ("POST", "sys/wrapping/wrap", {"any": "thing"}),
    ("POST", "sys/mounts/kv", {"type": "kv"}),
    ("DELETE", "sys/mounts/transit", None),
    ("GET", "sys/storage/raft/snapshot", None),
    ("POST", "sys/seal", {}),
    ("POST", "sys/rotate/recovery/init", {"secret_shares": 1, "secret_threshold": 1}),
]
DENIED: dict[str, list[Attempt]] = {
    "worker": [
        LIST_KEYS,
        *USES,
        ("POST", "transit/decrypt/{root}", CIPHERTEXT | {"associated_data": "aGk="}),
        ("POST", "transit/encrypt/{root}", PLAINTEXT | {"associated_data": "aGk="}),
        ("DELETE", "transit/keys/{l2}", None),
        ("POST", "transit/keys/{l2}/config", {"deletion_allowed": True}),
        *(("POST", f"transit/keys/{key}/rotate", {}) for key in PLATFORM_KEYS[1:]),
        ("POST", "transit/hmac/{l2}", {"input": FINGERPRINT_TEXT, "key_version": 1}),
        ("POST", "transit/hmac/{root}", {"input": "aGk=", "key_version": "1"}),
        ("POST", "transit/hmac/fingerprints", {"input": "aGk="}),
        ("POST", "transit/hmac/fingerprints", {"input": "aGk=", "key_version": "2"}),
        ("POST", "transit/hmac/fingerprints/sha2-512", {"input": "aGk=", "key_version": "1"}),
        ("POST", "transit/encrypt/fingerprints", {"plaintext": "aGk="}),
        ("POST", "transit/keys/{ca}/set-certificate", {"certificate_chain": "x"}),
        ("POST", "transit/keys/smuggled", {"type": "aes256-gcm96", "allow_plaintext_backup": True}),
        ("POST", "transit/keys/smuggled", {"type": "aes256-gcm96", "derived": True, "convergent_encryption": True}),
        ("POST", "transit/keys/smuggled", {"type": "rsa-2048"}),
        ("POST", "transit/keys/smuggled", {"type": "aes256-gcm96", "auto_rotate_period": "2160h"}),
        ("POST", "transit/keys/payload-smuggled", {"type": "aes256-gcm96", "auto_rotate_period": "1h"}),
        ("POST", "transit/keys/payload-smuggled", {"type": "aes256-gcm96", "exportable": True}),
        ("POST", "transit/keys/{payload}/config", {"min_decryption_version": 2}),
        ("POST", "transit/keys/{payload}/trim", {"min_available_version": 2}),
        *(
            ("POST", "pki/root/sign-intermediate", {"csr": "x", "common_name": "x", **limits})
            for limits in (
                {"max_path_length": "0"},
                {"max_path_length": "0", "permitted_dns_domains": "evil.example"},
                {"max_path_length": "1", "permitted_dns_domains": "acme-corp-12345.tenants.openkcm.internal"},
            )
        ),
        ("POST", "pki/sign/crypto-server", {"csr": "x", "alt_names": "localhost"}),
        ("POST", "cubbyhole/kept", {"any": "thing"}),
    ],
    "tenant": [
        LIST_KEYS,
        *LOCK,
        ("GET", f"{LOCKS_MOUNT}/{TENANT}", None),
        ("GET", "transit/keys/{l2}", None),
        ("POST", "transit/rewrap/{l2}", CIPHERTEXT),
        ("POST", "transit/rewrap/{l2}", {"batch_input": [], "key_version": 1}),
        *(("POST", f"transit/rewrap/{key}", {"batch_input": [CIPHERTEXT]}) for key in ("L2-other-primary", "{root}")),
        ("POST", "transit/keys/{l2}/rotate", {}),
        ("POST", "transit/keys/{l2}/config", {"min_decryption_version": 1}),
        ("POST", "transit/keys/{l2}/trim", {"min_available_version": 1}),
        ("DELETE", "transit/keys/{l2}/soft-delete", None),
        ("POST", "transit/datakey/plaintext/{l2}", {"context": "aGk="}),
        ("POST", "transit/datakey/wrapped/{l2}", {"context": "aGk=", "bits": 128}),
        ("POST", "transit/datakey/wrapped/{l2}", {"context": "aGk=", "associated_data": "aGk="}),
        ("POST", "transit/datakey/wrapped/L2-smuggled-primary", {"context": "aGk="}),
        ("POST", "transit/encrypt/L2-smuggled-primary", PLAINTEXT),
        ("POST", "transit/encrypt/{root}", PLAINTEXT),
        ("POST", "transit/decrypt/{root}", CIPHERTEXT),
        ("POST", "transit/hmac/{l2}", {"input": "aGk=", "key_version": 1}),
        ("POST", "transit/hmac/{l2}", {"input": FINGERPRINT_TEXT}),
        ("POST", "transit/hmac/{l2}", {"input": FINGERPRINT_TEXT, "key_version": 1, "algorithm": "sha2-512"}),
        (
            "POST",
            "transit/hmac/{l2}",
            {"input": FINGERPRINT_TEXT, "key_version": 1, "batch_input": [{"input": "aGk="}]},
        ),
        ("POST", "transit/hmac/{l2}/sha2-256", {"input": FINGERPRINT_TEXT, "key_version": 1}),
        ("POST", "transit/hmac/L2-other-primary", {"input": FINGERPRINT_TEXT, "key_version": 1}),
        ("POST", "transit/hmac/fingerprints", {"input": "aGk=", "key_version": "1"}),
        ("POST", "transit/verify/{l2}", {"input": FINGERPRINT_TEXT, "hmac": "vault:v1:aGk="}),
        ("POST", "transit/sign/{ca}/sha2-256", {"input": "aGk="}),
        ("POST", "auth/token/create", {}),
        ("GET", "auth/token/lookup-self", None),
    ],
    "crypto": [
        LIST_KEYS,
        *USES,
        *LOCK,
        ("LIST", LOCKS_MOUNT, None),
        *(
            (method, f"transit/{path}{key}", data)
            for key in ("{l2}", "{root}", "{ca}")
            for method, path, data in (
                ("GET", "keys/", None),
                ("POST", "keys/", {"type": "aes256-gcm96", "derived": True}),
                ("DELETE", "keys/", None),
                ("POST", "hmac/", {"input": "aGk="}),
                ("POST", "hmac/", {"input": FINGERPRINT_TEXT, "key_version": 1}),
            )
        ),
        ("POST", "transit/keys/{root}/soft-delete-restore", {}),
        *(("POST", f"transit/keys/{key}/rotate", {}) for key in ("{l2}", "{root}")),
        ("POST", "transit/keys/{l2}/config", {"min_decryption_version": 1}),
        ("POST", "transit/keys/{l2}/trim", {"min_available_version": 1}),
        ("POST", "transit/encrypt/{root}", {"batch_input": [PLAINTEXT]}),
        *(("POST", f"transit/sign/{key}/sha2-256", {"input": "aGk="}) for key in ("{ca}", "audit-checkpoints")),
        ("POST", "transit/keys/{ca}/csr", {}),
        ("POST", "transit/decrypt/payloads-platform", {"ciphertext": "vault:v1:aGk="}),
        ("POST", "transit/hmac/fingerprints", {"input": "aGk=", "key_version": "1"}),
        ("POST", "pki/issue/crypto-server", {"alt_names": "localhost"}),
        ("POST", "pki/issuer/root/sign/crypto-server", {"csr": "x", "alt_names": "localhost"}),
        *(
            ("POST", "pki/sign/crypto-server", {"csr": "x", "alt_names": "localhost", field: value})
            for field, value in {
                "uri_sans": "spiffe://acme-corp-12345.tenants.openkcm.internal/service/orders",
                "other_sans": "1.2.3.4;utf8:x",
                "not_after": "9999-12-31T23:59:59Z",
                "exclude_cn_from_sans": True,
                "format": "der",
            }.items()
        ),
        ("LIST", "pki/certs", None),
    ],
    "operator": [
        *USES,
        *LOCK,
        *(
            (method, f"transit/keys/{key}{path}", data)
            for key in (*TENANT_KEYS, *PLATFORM_KEYS)
            for method, path, data in (
                ("POST", "", {"type": "aes256-gcm96"}),
                ("DELETE", "", None),
                ("POST", "/rotate", {}),
                ("POST", "/config", {"min_decryption_version": 1}),
                ("POST", "/trim", {"min_available_version": 1}),
                ("DELETE", "/soft-delete", None),
                ("POST", "/soft-delete-restore", {}),
                ("POST", "/csr", {}),
            )
        ),
        ("POST", "transit/sign/audit-checkpoints/sha2-256", {"input": "aGk="}),
        ("LIST", "pki/certs", None),
    ],
    "codec": [
        LIST_KEYS,
        *USES,
        *LOCK,
        ("POST", "transit/datakey/plaintext/payloads-platform", {}),
        ("POST", "transit/encrypt/payloads-platform", {"plaintext": "aGk="}),
        ("GET", "transit/keys/payloads-platform", None),
        ("POST", "transit/sign/{ca}/sha2-256", {"input": "aGk="}),
    ],
    "offboarding": [
        LIST_KEYS,
        *USES,
        *LOCK,
        *(("GET", f"transit/keys/{key}", None) for key in (*TENANT_KEYS, *PLATFORM_KEYS, ANOTHER_SYSTEMS_KEY)),
        *(
            (method, f"transit/keys/{key}{path}", data)
            for key in (*PLATFORM_KEYS, ANOTHER_SYSTEMS_KEY)
            for method, path, data in (
                ("POST", "/rotate", {"deletion_allowed": True}),
                ("POST", "/config", {"deletion_allowed": True}),
                ("DELETE", "", None),
                ("DELETE", "/soft-delete", None),
            )
        ),
        *(
            ("POST", f"transit/keys/{key}{path}", data)
            for key in TENANT_KEYS
            for path, data in (
                ("/config", {"deletion_allowed": True, "exportable": True}),
                ("/config", {"deletion_allowed": True, "allow_plaintext_backup": True}),
                ("/config", {"deletion_allowed": False}),
                ("/rotate", {}),
                ("/trim", {"deletion_allowed": True, "min_available_version": 1}),
                ("/import", {"deletion_allowed": True, "ciphertext": "aGk="}),
            )
        ),
        ("POST", "transit/decrypt/{payload}", {"ciphertext": "vault:v1:aGk="}),
        *(("POST", f"transit/sign/{key}/sha2-256", {"input": "aGk="}) for key in ("{ca}", "audit-checkpoints")),
        ("POST", "transit/keys/L2-smuggled-primary", {"type": "aes256-gcm96", "derived": True}),
        ("POST", "transit/keys/L2-smuggled-primary", {"deletion_allowed": True, "exportable": True}),
    ],
}


@pytest.fixture(scope="module")
def sessions(server: Server, worker: VaultSession, tokens: TenantTokens, admin: TokenSession) -> dict[str, VaultClient]:
    """Return a session of each identity, with a tenant that has every kind of key."""
    TransitTenantKeys(worker, tokens).ensure(TENANT)
    TransitPayloadKeys(worker).ensure(TENANT)
    PkiAuthorities(worker).ensure(TENANT, nothing_recorded)
    TransitRootKeys(worker).ensure("eu-west-1")
    admin.write(f"transit/keys/{ANOTHER_SYSTEMS_KEY}", {"type": "aes256-gcm96"})
    crypto = server.session("crypto")
    return {
        **{role: server.session(role) for role in ("worker", "crypto", "codec", "offboarding", "operator")},
        "tenant": tokens.session(TENANT),
        "tenant inline": InlineTenants(crypto, server.identity_pem, "crypto").session(TENANT),
    }


@pytest.mark.parametrize("identity", [*DENIED, "tenant inline"])
def test_identity_is_denied_what_it_does_not_need(
    sessions: dict[str, VaultClient], admin: TokenSession, identity: str
) -> None:
    keys = [key.format(**NAMES) for key in (*TENANT_KEYS, *PLATFORM_KEYS, ANOTHER_SYSTEMS_KEY)]
    before = [admin.read(f"transit/keys/{key}") for key in keys]
    assert None not in before
    attempts = [*EVERY_IDENTITY, *DENIED[identity.partition(" ")[0]]]
    assert [attempt for attempt in attempts if not _is_denied(sessions[identity], *attempt)] == []
    assert [admin.read(f"transit/keys/{key}") for key in keys] == before
    for name in ("smuggled", "root-smuggled", "L2-smuggled-primary"):
        assert admin.read(f"transit/keys/{name}") is None


def _is_denied(session: VaultClient, method: str, path: str, data: dict[str, object] | None) -> bool:
    try:
        session.request(method, path.format(**NAMES), data)
    except VaultRefused:
        return True
    return False
