"""What each process and each tenant must not be able to do, tried on the real server."""

from collections.abc import Callable

import pytest

from tenancy import ids
from tenancy.errors import VaultRefused
from tests.contracts.authorities import nothing_recorded
from tests.vault.server import Server
from vault.fingerprints import FINGERPRINT_TEXT
from vault.payload_keys import TransitPayloadKeys
from vault.pki import PkiAuthorities
from vault.root_keys import TransitRootKeys
from vault.session import TokenSession, VaultCalls, VaultSession
from vault.tokens import InlineTenants, TenantTokens
from vault.transit import TransitTenantKeys


@pytest.fixture
def tenant(worker: VaultSession, tokens: TenantTokens, new_tenant: Callable[[], str]) -> str:
    tenant = new_tenant()
    TransitTenantKeys(worker, tokens).ensure(tenant)
    PkiAuthorities(worker).ensure(tenant, nothing_recorded)
    TransitRootKeys(worker).ensure("eu-west-1")
    return tenant


ROOT_KEY = ids.root_key("eu-west-1")
Attempt = tuple[str, str, dict[str, object] | None]


def _spelled(attempt: Attempt) -> str:
    method, path, data = attempt
    return f"{method} {path} {' '.join(data or ())}".rstrip()


def _is_refused(session: VaultCalls, tenant: str, attempt: Attempt) -> bool:
    method, path, data = attempt
    try:
        session.request(method, path.format(l2=ids.l2_key(tenant), ca=ids.ca_key(tenant), root=ROOT_KEY), data)
    except VaultRefused:
        return True
    return False


# {l2} and {ca} are the tenant's keys, {root} is the region's.
WORKER_MUST_NOT: list[Attempt] = [
    ("POST", "transit/encrypt/{l2}", {"plaintext": "aGk=", "context": "aGk="}),
    ("POST", "transit/decrypt/{l2}", {"ciphertext": "vault:v1:aGk=", "context": "aGk="}),
    ("POST", "transit/rewrap/{l2}", {"ciphertext": "vault:v1:aGk=", "context": "aGk="}),
    ("POST", "transit/datakey/plaintext/{l2}", {"context": "aGk="}),
    ("POST", "transit/datakey/wrapped/{l2}", {"context": "aGk="}),
    ("POST", "transit/decrypt/{root}", {"ciphertext": "vault:v1:aGk=", "context": "aGk=", "associated_data": "aGk="}),
    ("POST", "transit/rewrap/{root}", {"ciphertext": "vault:v1:aGk=", "context": "aGk="}),
    ("POST", "transit/datakey/plaintext/{root}", {"context": "aGk="}),
    ("POST", "transit/encrypt/{root}", {"plaintext": "aGk=", "context": "aGk=", "associated_data": "aGk="}),
    ("POST", "transit/encrypt/root-smuggled", {"plaintext": "aGk=", "context": "aGk="}),
    ("POST", "transit/keys/root-smuggled", {"type": "aes256-gcm96", "derived": True, "exportable": True}),
    ("GET", "transit/export/encryption-key/{l2}", None),
    ("GET", "transit/backup/{l2}", None),
    ("POST", "transit/restore/{l2}", {"backup": "aGk="}),
    ("DELETE", "transit/keys/{l2}", None),
    ("POST", "transit/keys/{l2}/config", {"deletion_allowed": True}),
    ("POST", "transit/keys/{l2}/config", {"exportable": True}),
    ("POST", "transit/keys/{l2}/config", {"min_decryption_version": 1, "deletion_allowed": True}),
    ("POST", "transit/keys/{l2}/config", {"allow_plaintext_backup": True}),
    ("POST", "transit/keys/{l2}/config", {"auto_rotate_period": "1h"}),
    *(
        ("POST", f"transit/keys/{key}/{change}", data)
        for key in ("{root}", "audit-heads", "payloads-platform", "fingerprints")
        for change, data in (
            ("config", {"min_decryption_version": 1, "min_encryption_version": 1}),
            ("config", {"deletion_allowed": True}),
            ("trim", {"min_available_version": 1}),
        )
    ),
    *(("POST", f"transit/keys/{key}/rotate", {}) for key in ("audit-heads", "payloads-platform", "fingerprints")),
    *(
        ("DELETE", f"transit/keys/{key}/soft-delete", None)
        for key in ("{root}", "audit-heads", "payloads-platform", "fingerprints")
    ),
    ("POST", "transit/hmac/{l2}", {"input": FINGERPRINT_TEXT, "key_version": 1}),
    ("POST", "transit/hmac/{root}", {"input": "aGk=", "key_version": "1"}),
    ("POST", "transit/hmac/fingerprints", {"input": "aGk="}),
    ("POST", "transit/hmac/fingerprints", {"input": "aGk=", "key_version": "2"}),
    ("POST", "transit/hmac/fingerprints/sha2-512", {"input": "aGk=", "key_version": "1"}),
    ("POST", "transit/encrypt/fingerprints", {"plaintext": "aGk="}),
    ("DELETE", "transit/keys/{root}", None),
    ("POST", "transit/keys/{root}/import", {"type": "aes256-gcm96", "ciphertext": "aGk="}),
    ("POST", "transit/keys/{ca}/set-certificate", {"certificate_chain": "x"}),
    ("POST", "transit/keys/smuggled", {"type": "aes256-gcm96", "exportable": True}),
    ("POST", "transit/keys/smuggled", {"type": "aes256-gcm96", "allow_plaintext_backup": True}),
    ("POST", "transit/keys/smuggled", {"type": "aes256-gcm96", "derived": True, "convergent_encryption": True}),
    ("POST", "transit/keys/smuggled", {"type": "rsa-2048"}),
    ("POST", "transit/keys/smuggled/import", {"type": "aes256-gcm96", "ciphertext": "aGk="}),
    ("POST", "transit/config/keys", {"disable_upsert": False}),
    ("LIST", "transit/keys", None),
    ("POST", "pki/root/sign-self-issued", {"certificate": "x"}),
    ("POST", "pki/root/sign-intermediate", {"csr": "x", "common_name": "x", "max_path_length": "0"}),
    (
        "POST",
        "pki/root/sign-intermediate",
        {"csr": "x", "common_name": "x", "max_path_length": "0", "permitted_dns_domains": "evil.example"},
    ),
    (
        "POST",
        "pki/root/sign-intermediate",
        {
            "csr": "x",
            "common_name": "x",
            "max_path_length": "1",
            "permitted_dns_domains": "acme-corp-12345.tenants.openkcm.internal",
        },
    ),
    ("POST", "pki/sign/crypto-server", {"csr": "x", "alt_names": "localhost"}),
    ("POST", "pki/roles/crypto-server", {"client_flag": True}),
    ("POST", "pki/sign-verbatim", {"csr": "x"}),
    ("POST", "pki/issuer/default/sign-verbatim", {"csr": "x"}),
    ("POST", "pki/issuer/root/sign-intermediate", {"csr": "x", "common_name": "x"}),
    ("DELETE", "pki/root", None),
    ("POST", "pki/root/generate/internal", {"common_name": "x"}),
    ("POST", "pki/revoke", {"serial_number": "00"}),
    ("POST", "sys/policies/acl/openkcm-worker", {"policy": ""}),
    ("POST", "auth/jwt/role/tenant", {"user_claim": "sub"}),
    ("POST", "auth/approle/role/openkcm-worker", {"token_policies": ["root"]}),
    ("POST", "auth/token/create", {"policies": ["root"]}),
    ("POST", "cubbyhole/kept", {"any": "thing"}),
    ("POST", "sys/wrapping/wrap", {"any": "thing"}),
    ("POST", "sys/mounts/kv", {"type": "kv"}),
    ("GET", "sys/storage/raft/snapshot", None),
    ("POST", "sys/seal", {}),
    ("POST", "sys/rotate/recovery/init", {"secret_shares": 1, "secret_threshold": 1}),
]


@pytest.mark.parametrize("attempt", WORKER_MUST_NOT, ids=_spelled)
def test_the_worker_must_not(worker: VaultSession, admin: TokenSession, tenant: str, attempt: Attempt) -> None:
    before = admin.read(f"transit/keys/{ids.l2_key(tenant)}")
    assert _is_refused(worker, tenant, attempt)
    assert admin.read(f"transit/keys/{ids.l2_key(tenant)}") == before
    assert admin.read("transit/keys/smuggled") is None


TENANT_MUST_NOT: list[Attempt] = [
    ("GET", "transit/keys/{l2}", None),
    ("POST", "transit/rewrap/{l2}", {"ciphertext": "vault:v1:aGk=", "context": "aGk="}),
    ("POST", "transit/rewrap/{l2}", {"batch_input": [], "key_version": 1}),
    ("POST", "transit/rewrap/L2-other-primary", {"batch_input": [{"ciphertext": "vault:v1:aGk=", "context": "aGk="}]}),
    ("POST", "transit/rewrap/{root}", {"batch_input": [{"ciphertext": "vault:v1:aGk=", "context": "aGk="}]}),
    ("POST", "transit/keys/{l2}/rotate", {}),
    ("POST", "transit/keys/{l2}/config", {"min_decryption_version": 1}),
    ("POST", "transit/keys/{l2}/trim", {"min_available_version": 1}),
    ("POST", "transit/datakey/plaintext/{l2}", {"context": "aGk="}),
    ("POST", "transit/datakey/wrapped/{l2}", {"context": "aGk=", "bits": 128}),
    ("POST", "transit/datakey/wrapped/{l2}", {"context": "aGk=", "associated_data": "aGk="}),
    ("POST", "transit/datakey/wrapped/L2-smuggled-primary", {"context": "aGk="}),
    ("POST", "transit/encrypt/{root}", {"plaintext": "aGk=", "context": "aGk="}),
    ("POST", "transit/decrypt/{root}", {"ciphertext": "vault:v1:aGk=", "context": "aGk="}),
    ("POST", "transit/hmac/{l2}", {"input": "aGk=", "key_version": 1}),
    ("POST", "transit/hmac/{l2}", {"input": FINGERPRINT_TEXT}),
    ("POST", "transit/hmac/{l2}", {"input": FINGERPRINT_TEXT, "key_version": 1, "algorithm": "sha2-512"}),
    ("POST", "transit/hmac/{l2}", {"input": FINGERPRINT_TEXT, "key_version": 1, "batch_input": [{"input": "aGk="}]}),
    ("POST", "transit/hmac/{l2}/sha2-256", {"input": FINGERPRINT_TEXT, "key_version": 1}),
    ("POST", "transit/hmac/L2-other-primary", {"input": FINGERPRINT_TEXT, "key_version": 1}),
    ("POST", "transit/hmac/fingerprints", {"input": "aGk=", "key_version": "1"}),
    ("POST", "transit/verify/{l2}", {"input": FINGERPRINT_TEXT, "hmac": "vault:v1:aGk="}),
    ("DELETE", "transit/keys/{l2}/soft-delete", None),
    ("POST", "transit/sign/{ca}/sha2-256", {"input": "aGk="}),
    ("POST", "transit/encrypt/L2-smuggled-primary", {"plaintext": "aGk=", "context": "aGk="}),
    ("POST", "auth/token/create", {}),
    ("GET", "auth/token/lookup-self", None),
]


@pytest.mark.parametrize("attempt", TENANT_MUST_NOT, ids=_spelled)
def test_a_tenants_identity_must_not(
    tokens: TenantTokens, crypto: VaultSession, server: Server, tenant: str, attempt: Attempt
) -> None:
    assert _is_refused(tokens.session(tenant), tenant, attempt)
    assert _is_refused(InlineTenants(crypto, server.identity_pem, "crypto").session(tenant), tenant, attempt)


CRYPTO_MUST_NOT: list[Attempt] = [
    *(
        ("POST", f"transit/{operation}/{{l2}}", {"context": "aGk=", **fields})
        for operation, fields in {
            "encrypt": {"plaintext": "aGk="},
            "decrypt": {"ciphertext": "vault:v1:aGk="},
            "rewrap": {"ciphertext": "vault:v1:aGk="},
            "datakey/plaintext": {},
            "datakey/wrapped": {},
        }.items()
    ),
    *(
        (method, f"{path}{{{key}}}", data)
        for key in ("l2", "root", "ca")
        for method, path, data in (
            ("GET", "transit/keys/", None),
            ("POST", "transit/keys/", {"type": "aes256-gcm96", "derived": True}),
            ("DELETE", "transit/keys/", None),
            ("GET", "transit/export/encryption-key/", None),
            ("GET", "transit/backup/", None),
            ("POST", "transit/hmac/", {"input": "aGk="}),
            ("POST", "transit/hmac/", {"input": FINGERPRINT_TEXT, "key_version": 1}),
        )
    ),
    ("DELETE", "transit/keys/{root}/soft-delete", None),
    ("POST", "transit/keys/{root}/soft-delete-restore", {}),
    *(("POST", f"transit/keys/{key}/rotate", {}) for key in ("{l2}", "{root}")),
    *(("POST", f"transit/keys/{key}/config", {"min_decryption_version": 1}) for key in ("{l2}", "{root}")),
    *(("POST", f"transit/keys/{key}/trim", {"min_available_version": 1}) for key in ("{l2}", "{root}")),
    ("POST", "transit/keys/{root}/config", {"deletion_allowed": True}),
    ("POST", "transit/rewrap/{root}", {"ciphertext": "vault:v1:aGk=", "context": "aGk="}),
    ("POST", "transit/datakey/plaintext/{root}", {"context": "aGk="}),
    ("POST", "transit/encrypt/root-smuggled", {"plaintext": "aGk=", "context": "aGk="}),
    ("POST", "transit/encrypt/{root}", {"batch_input": [{"plaintext": "aGk=", "context": "aGk="}]}),
    ("LIST", "transit/keys", None),
    ("POST", "transit/sign/{ca}/sha2-256", {"input": "aGk="}),
    ("POST", "transit/sign/audit-heads/sha2-256", {"input": "aGk="}),
    ("POST", "transit/keys/{ca}/csr", {}),
    ("POST", "transit/decrypt/payloads-platform", {"ciphertext": "vault:v1:aGk="}),
    ("POST", "transit/hmac/fingerprints", {"input": "aGk=", "key_version": "1"}),
    ("POST", "pki/root/sign-intermediate", {"csr": "x", "common_name": "x"}),
    ("POST", "pki/sign-verbatim", {"csr": "x"}),
    ("POST", "pki/sign-verbatim/crypto-server", {"csr": "x"}),
    ("POST", "pki/issue/crypto-server", {"alt_names": "localhost"}),
    ("POST", "pki/issuer/root/sign/crypto-server", {"csr": "x", "alt_names": "localhost"}),
    ("POST", "pki/roles/crypto-server", {"client_flag": True}),
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
    ("POST", "auth/jwt/role/tenant", {"user_claim": "sub"}),
    ("POST", "sys/policies/acl/openkcm-crypto", {"policy": ""}),
    ("POST", "auth/token/create", {"policies": ["root"]}),
]


@pytest.mark.parametrize("attempt", CRYPTO_MUST_NOT, ids=_spelled)
def test_the_crypto_service_must_not(crypto: VaultSession, admin: TokenSession, tenant: str, attempt: Attempt) -> None:
    before = admin.read(f"transit/keys/{ROOT_KEY}")
    assert _is_refused(crypto, tenant, attempt)
    assert admin.read(f"transit/keys/{ROOT_KEY}") == before
    assert admin.read("transit/keys/root-smuggled") is None


CODEC_MUST_NOT: list[Attempt] = [
    ("POST", "transit/datakey/plaintext/payloads-platform", {}),
    ("POST", "transit/encrypt/payloads-platform", {"plaintext": "aGk="}),
    ("GET", "transit/keys/payloads-platform", None),
    ("POST", "transit/decrypt/{l2}", {"ciphertext": "vault:v1:aGk=", "context": "aGk="}),
    ("POST", "transit/sign/{ca}/sha2-256", {"input": "aGk="}),
]


@pytest.mark.parametrize("attempt", CODEC_MUST_NOT, ids=_spelled)
def test_the_codec_must_not(codec: VaultSession, tenant: str, attempt: Attempt) -> None:
    assert _is_refused(codec, tenant, attempt)


PLATFORMS_KEYS = ("root-eu-west-1", "audit-heads", "payloads-platform", "fingerprints", "somebody-elses")
OFFBOARDING_MUST_NOT: list[Attempt] = [
    *(
        (method, f"transit/keys/{name}{path}", data)
        for name in PLATFORMS_KEYS
        for method, path, data in (
            ("GET", "", None),
            ("DELETE", "", None),
            ("DELETE", "/soft-delete", None),
            ("POST", "/config", {"deletion_allowed": True}),
            ("POST", "/rotate", {"deletion_allowed": True}),
        )
    ),
    *(
        (method, path, data)
        for key in ("{l2}", "{ca}", "payload-{tenant}")
        for method, path, data in (
            ("POST", f"transit/keys/{key}/config", {"exportable": True}),
            ("POST", f"transit/keys/{key}/config", {"deletion_allowed": True, "exportable": True}),
            ("POST", f"transit/keys/{key}/config", {"deletion_allowed": True, "allow_plaintext_backup": True}),
            ("POST", f"transit/keys/{key}/config", {"deletion_allowed": False}),
            ("POST", f"transit/keys/{key}/config", {"deletion_allowed": True, "min_decryption_version": 1}),
            ("POST", f"transit/keys/{key}/rotate", {}),
            ("POST", f"transit/keys/{key}/trim", {"deletion_allowed": True, "min_available_version": 1}),
            ("POST", f"transit/keys/{key}/import", {"deletion_allowed": True, "ciphertext": "aGk="}),
            ("GET", f"transit/keys/{key}", None),
            ("GET", f"transit/export/encryption-key/{key}", None),
            ("GET", f"transit/backup/{key}", None),
        )
    ),
    *(
        ("POST", f"transit/{operation}/{{l2}}", {"context": "aGk=", **fields})
        for operation, fields in {
            "encrypt": {"plaintext": "aGk="},
            "decrypt": {"ciphertext": "vault:v1:aGk="},
            "rewrap": {"ciphertext": "vault:v1:aGk="},
            "datakey/plaintext": {},
            "datakey/wrapped": {},
        }.items()
    ),
    ("POST", "transit/decrypt/payload-{tenant}", {"ciphertext": "vault:v1:aGk="}),
    ("POST", "transit/sign/{ca}/sha2-256", {"input": "aGk="}),
    ("POST", "transit/sign/audit-heads/sha2-256", {"input": "aGk="}),
    ("POST", "transit/keys/L2-smuggled-primary", {"type": "aes256-gcm96", "derived": True}),
    ("POST", "transit/keys/L2-smuggled-primary", {"deletion_allowed": True, "exportable": True}),
    ("POST", "transit/restore/{l2}", {"backup": "aGk="}),
    ("POST", "transit/config/keys", {"disable_upsert": False}),
    ("LIST", "transit/keys", None),
    ("POST", "pki/revoke", {"serial_number": "00"}),
    ("DELETE", "pki/root", None),
    ("DELETE", "sys/mounts/transit", None),
    ("POST", "sys/policies/acl/openkcm-offboarding", {"policy": ""}),
    ("POST", "auth/approle/role/openkcm-worker", {"token_policies": ["root"]}),
    ("POST", "auth/token/create", {"policies": ["root"]}),
]


@pytest.mark.parametrize("attempt", OFFBOARDING_MUST_NOT, ids=_spelled)
def test_who_destroys_keys_must_not(
    offboarding: VaultSession, worker: VaultSession, admin: TokenSession, tenant: str, attempt: Attempt
) -> None:
    TransitPayloadKeys(worker).ensure(tenant)
    admin.write("transit/keys/somebody-elses", {"type": "aes256-gcm96"})
    names = (ids.l2_key(tenant), ids.ca_key(tenant), ids.payload_key(tenant), *PLATFORMS_KEYS)
    before = [admin.read(f"transit/keys/{name}") for name in names]
    method, path, data = attempt
    assert _is_refused(offboarding, tenant, (method, path.replace("{tenant}", tenant), data))
    assert [admin.read(f"transit/keys/{name}") for name in names] == before
    assert None not in before
