"""The desired state of a key server as one list of requests, for a new and for an existing server.

`apply` sends it to an OpenBao or Vault and is idempotent. `self_init_stanzas` renders the same list as OpenBao
`initialize` blocks, with which a new OpenBao initialises itself on its first start, so that no root token ever exists.
Secrets are referred to by file.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Literal

from core.errors.platform import SecretsDiffer
from core.existing_secrets import ExistingSecrets
from vault.auth.client import ROLE_PREFIX, VaultClient, VaultRejected
from vault.auth.tenant_tokens import TENANT_ROLE, TOKEN_AUDIENCE, TOKEN_ISSUER
from vault.auth.transport import CORRELATION_HEADER, PROCESS_HEADER

AUDIT_KEY = "audit-checkpoints"
PLATFORM_PAYLOAD_KEY = "payloads-platform"
PAYLOAD_KEY_PERIOD = "2160h"
"""The cryptoperiod of the keys of workflow payloads, 90 days; also in policies/worker.hcl."""
FINGERPRINT_KEY = "fingerprints"
LOCKS_MOUNT = "tenant-locks"
"""The key-value store with the locks of tenants (vault/tenant_locks.py)."""
SERVER_ROLE = "crypto-server"
SETUP = "setup"
"""The AppRole role that may update a server to a newer desired state; see policies/setup.hcl."""


POLICIES = Path(__file__).parent / "policies"

_JWT_CONFIG, _JWT_KEYS = "auth/jwt/config", "jwt_validation_pubkeys"
_TEN_YEARS = "87600h"
ACCESSOR = "JWT_ACCESSOR"
"""The placeholder in policies/tenant.hcl for the accessor of the JWT mount, which only the running server knows."""


@dataclass(frozen=True, slots=True)
class FileText:
    """The content of a file that the server (or `apply`) reads.

    OpenBao uses it to the last byte, so a secret's file must not end with a newline; `apply` strips whitespace.
    """

    path: Path


@dataclass(frozen=True, slots=True)
class SecretFile(FileText):
    """The value in a secret's file. `apply` ignores the former value, which follows on a second line."""


@dataclass(frozen=True, slots=True)
class WithAccessor:
    """A text in which `JWT_ACCESSOR` is replaced by the accessor in the response to the request `read_as`."""

    text: str
    read_as: str


Scalar = str | int | bool | FileText | WithAccessor | tuple[str, ...]
Fields = Mapping[str, "Scalar | Mapping[str, Scalar]"]


@dataclass(frozen=True, slots=True)
class ExistenceCheck:
    """A request whose response has content only when the resource exists: a GET, or a POST with fields."""

    path: str
    data: Fields | None = None


@dataclass(frozen=True, slots=True)
class SetupRequest:
    """One request; `unless` is the existence check of a resource that cannot be created twice."""

    name: str
    path: str
    data: Fields
    operation: Literal["update", "read"] = "update"
    unless: ExistenceCheck | None = None


@dataclass(frozen=True, slots=True)
class SetupConfig:
    """The parameters of an installation.

    `secret_id_files`: AppRole role (`worker`, `codec`, `crypto`, `offboarding`, `operator`, and `setup` if `apply` is
    to be run later without an administrator) → file with its secret id, 0600. `boundary_public_key_file`: public key
    (PEM) of the identity that signs tenant JWTs. `server_names`: the DNS names and IP addresses that are allowed in the
    crypto service's certificate. `policies`: the folder of `<role>.hcl` and `tenant.hcl`.
    """

    secret_id_files: Mapping[str, Path]
    boundary_public_key_file: Path
    server_names: Sequence[str] = ("localhost", "127.0.0.1")
    policies: Path = POLICIES


def desired_state(wanted: SetupConfig) -> tuple[SetupRequest, ...]:
    """Return the requests that a server needs before the first tenant, in order."""
    folder, processes = wanted.policies, wanted.secret_id_files
    return (
        # First, so that a server of an older version permits `setup` the new requests.
        *(_policy(role, folder) for role in processes if role == SETUP),
        *(_audited_header(header) for header in (CORRELATION_HEADER, PROCESS_HEADER)),
        *_engines(),
        _server_role(wanted.server_names),
        *_tenant_login(wanted.boundary_public_key_file, folder),
        _mount("approle", "sys/auth/approle", {"type": "approle"}),
        # Role ids are names, so five wrong logins by anyone would lock a process out on all hosts. Guessing a secret id
        # of 256 random bits is hopeless without a lockout too.
        SetupRequest("approle-lockout", "sys/auth/approle/tune", {"user_lockout_config": {"lockout_disable": True}}),
        *(_policy(role, folder) for role in processes if role != SETUP),
        *(request for role, file in processes.items() for request in _login(role, file)),
    )


def apply(session: VaultClient, wanted: SetupConfig, existing: ExistingSecrets = ExistingSecrets.KEEP) -> None:
    """Update an existing server to the desired state; idempotent.

    The session belongs to an administrator or to the role `setup`. Resources of an older version that this one lacks
    stay. `existing` is about the secret ids of the processes and the keys that verify tenant tokens; before KEEP the
    caller requires `require_same_secrets`.
    """
    accessors: dict[str, str] = {}
    for request in desired_state(wanted):
        if request.operation == "read":
            accessors[request.name] = (session.read(request.path) or {})["accessor"]
        elif request.unless is None or not _exists(session, request.unless):
            fields = _plain(request.data, accessors)
            if request.path == _JWT_CONFIG:
                fields[_JWT_KEYS] = _keys_to_verify(session, str(fields[_JWT_KEYS]), existing)
            session.write(request.path, fields)
    if existing is ExistingSecrets.REPLACE:
        _revoke_other_secret_ids(session, wanted)


def _keys_to_verify(session: VaultClient, wanted: str, existing: ExistingSecrets) -> list[str]:
    others = frozenset() if existing is ExistingSecrets.REPLACE else _verification_keys(session)
    return [wanted, *sorted(others - {wanted})]


def _revoke_other_secret_ids(session: VaultClient, wanted: SetupConfig) -> None:
    """Revoke the secret ids of each role except the wanted one; tokens of the others end within an hour."""
    for role, file in wanted.secret_id_files.items():
        path = f"auth/approle/role/{ROLE_PREFIX}{role}"
        check = _secret_id_check(ROLE_PREFIX + role, file)
        kept = (session.write(check.path, _plain(check.data or {}, {})) or {})["secret_id_accessor"]
        for accessor in session.list(f"{path}/secret-id"):
            if accessor != kept:
                session.write(f"{path}/secret-id-accessor/destroy", {"secret_id_accessor": accessor})


def require_same_secrets(session: VaultClient, wanted: SetupConfig, boundary_public_key: str | None) -> None:
    """Reject secrets that the server does not accept although it is set up, because processes use others.

    Nothing is changed, and the files of `wanted` need not exist. `boundary_public_key` is the PEM of the key that the
    host has for tenant tokens, or None.

    Raises:
        SecretsDiffer: with each difference.
    """
    differences = []
    for role, file in wanted.secret_id_files.items():
        name = ROLE_PREFIX + role
        if _exists(session, ExistenceCheck(f"auth/approle/role/{name}")) and not (
            file.exists() and _exists(session, _secret_id_check(name, file))
        ):
            differences.append(f"the role {name} does not have the secret id in {file.name}")
    accepted = _verification_keys(session)
    if accepted and boundary_public_key not in accepted:
        differences.append(f"tenant tokens are verified by another key than {wanted.boundary_public_key_file.name}")
    if differences:
        raise SecretsDiffer("key server", "; ".join(differences))


def digest(wanted: SetupConfig) -> str:
    """Return the SHA-256 (hex) of the desired state, including secrets and policies."""
    accessors = {request.name: ACCESSOR for request in desired_state(wanted) if request.operation == "read"}
    state = [(request.operation, request.path, _plain(request.data, accessors)) for request in desired_state(wanted)]
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()


def _mount(name: str, path: str, data: Fields) -> SetupRequest:
    return SetupRequest(name, path, data, unless=ExistenceCheck(path))


def _audited_header(header: str) -> SetupRequest:
    """Log a header unhashed in the server's audit log: it identifies the operation and contains no secret."""
    return SetupRequest(f"audited-{header.lower()}", f"sys/config/auditing/request-headers/{header}", {"hmac": False})


def _engines() -> tuple[SetupRequest, ...]:
    return (
        _mount("transit", "sys/mounts/transit", {"type": "transit"}),
        # The log contains the encryption context of each use, by which reconciliation matches it with audit events.
        SetupRequest("transit-log", "sys/mounts/transit/tune", {"audit_non_hmac_request_keys": ("context",)}),
        # Without this an encrypt with a missing key creates one, also that of an offboarded tenant.
        SetupRequest("no-upsert", "transit/config/keys", {"disable_upsert": True}),
        SetupRequest("audit-key", f"transit/keys/{AUDIT_KEY}", {"type": "ecdsa-p256"}),
        SetupRequest(
            "payload-key",
            f"transit/keys/{PLATFORM_PAYLOAD_KEY}",
            {"type": "aes256-gcm96", "auto_rotate_period": PAYLOAD_KEY_PERIOD},
        ),
        SetupRequest("fingerprint-key", f"transit/keys/{FINGERPRINT_KEY}", {"type": "aes256-gcm96"}),
        _mount("locks", f"sys/mounts/{LOCKS_MOUNT}", {"type": "kv"}),
        _mount("pki", "sys/mounts/pki", {"type": "pki", "config": {"max_lease_ttl": _TEN_YEARS}}),
        SetupRequest(
            "pki-log",
            "sys/mounts/pki/tune",
            {
                "audit_non_hmac_request_keys": ("permitted_dns_domains",),
                "audit_non_hmac_response_keys": ("serial_number",),
            },
        ),
        SetupRequest(
            "root",
            "pki/root/generate/internal",
            {
                "common_name": "OpenKCM root",
                "issuer_name": "root",
                "key_type": "ec",
                "key_bits": 256,
                "ttl": _TEN_YEARS,
            },
            unless=ExistenceCheck("pki/cert/ca"),
        ),
    )


def _tenant_login(public_key: Path, folder: Path) -> tuple[SetupRequest, ...]:
    template = (folder / "tenant.hcl").read_text(encoding="utf-8")
    return (
        _mount("jwt", "sys/auth/jwt", {"type": "jwt"}),
        SetupRequest("jwt-mount", "sys/auth/jwt", {}, operation="read"),
        SetupRequest(
            "jwt-config",
            _JWT_CONFIG,
            {_JWT_KEYS: FileText(public_key), "bound_issuer": TOKEN_ISSUER},
        ),
        SetupRequest(
            "tenant-policy",
            f"sys/policies/acl/{ROLE_PREFIX}tenant",
            {"policy": WithAccessor(template, read_as="jwt-mount")},
        ),
        # The claim `tenant` is the name of the alias, and the policy reads that name. A tenant in the alias's metadata
        # would be shared by all tokens of one subject, and each login would change it for tokens already issued.
        SetupRequest(
            "tenant-role",
            f"auth/jwt/role/{TENANT_ROLE}",
            {
                "role_type": "jwt",
                "user_claim": "tenant",
                "bound_audiences": (TOKEN_AUDIENCE,),
                "token_type": "batch",
                "token_policies": (f"{ROLE_PREFIX}tenant",),
                "token_no_default_policy": True,
                "token_ttl": 60,
                "token_max_ttl": 60,
                "expiration_leeway": -1,
                "not_before_leeway": -1,
                "clock_skew_leeway": 10,
            },
        ),
    )


def _server_role(names: Sequence[str]) -> SetupRequest:
    """Return the PKI role that signs the crypto service's server certificates: these names, TLS servers, any key.

    Only the key of the CSR is used (RFC 5280 subject and alternative names are parameters, which the process's policy
    restricts). Certificates are not stored: each process gets one every few days, and the search for unrecorded CA
    certificates reads all stored ones.
    """
    addresses = tuple(name for name in names if is_address(name))
    return SetupRequest(
        "server-role",
        f"pki/roles/{SERVER_ROLE}",
        {
            "issuer_ref": "default",
            "allowed_domains": tuple(name for name in names if name not in addresses),
            "allow_bare_domains": True,
            "allow_localhost": False,
            "allow_wildcard_certificates": False,
            "allow_ip_sans": bool(addresses),
            "allowed_ip_sans_cidr": tuple(str(ip_network(address)) for address in addresses),
            "require_cn": False,
            "use_csr_common_name": False,
            "use_csr_sans": False,
            "key_type": "any",
            "key_bits": 0,
            "key_usage": ("DigitalSignature",),
            "server_flag": True,
            "client_flag": False,
            "max_ttl": "72h",
            "no_store": True,
        },
    )


def is_address(name: str) -> bool:
    """Return whether a name in a certificate is an IP address."""
    with suppress(ValueError):
        return bool(ip_address(name))
    return False


def _policy(role: str, folder: Path) -> SetupRequest:
    name = ROLE_PREFIX + role
    return SetupRequest(f"{role}-policy", f"sys/policies/acl/{name}", {"policy": FileText(folder / f"{role}.hcl")})


def _login(role: str, secret_id: Path) -> tuple[SetupRequest, ...]:
    name = ROLE_PREFIX + role
    return (
        SetupRequest(
            f"{role}-role",
            f"auth/approle/role/{name}",
            {
                "role_id": name,
                "token_policies": (name,),
                # The server's `default` policy permits much that no process needs. It also contains templates, which
                # the server evaluates again for each request.
                "token_no_default_policy": True,
                "token_ttl": 1200,
                "token_max_ttl": 3600,
            },
        ),
        SetupRequest(
            f"{role}-secret-id",
            f"auth/approle/role/{name}/custom-secret-id",
            {"secret_id": SecretFile(secret_id)},
            unless=_secret_id_check(name, secret_id),
        ),
    )


def _secret_id_check(role: str, secret_id: Path) -> ExistenceCheck:
    return ExistenceCheck(f"auth/approle/role/{role}/secret-id/lookup", {"secret_id": SecretFile(secret_id)})


def _verification_keys(session: VaultClient) -> frozenset[str]:
    with suppress(VaultRejected):  # there is no such mount
        keys = (session.read(_JWT_CONFIG) or {}).get(_JWT_KEYS)
        return frozenset(key.strip() for key in keys or ())
    return frozenset()


def _exists(session: VaultClient, check: ExistenceCheck) -> bool:
    try:
        if check.data is None:
            return bool(session.read(check.path))
        return bool(session.write(check.path, _plain(check.data, {})))
    except VaultRejected:  # a missing mount, or one without a root, causes 400 instead of 404
        return False


def _plain(fields: Fields, accessors: Mapping[str, str]) -> dict[str, object]:
    """Return the fields as JSON for `apply`."""
    plain: dict[str, object] = {}
    for name, value in fields.items():
        match value:
            case SecretFile(path):
                plain[name] = path.read_text(encoding="utf-8").strip().partition("\n")[0].strip()
            case FileText(path):
                plain[name] = path.read_text(encoding="utf-8").strip()
            case WithAccessor(text, read_as):
                plain[name] = text.replace(ACCESSOR, accessors[read_as])
            case Mapping():
                plain[name] = _plain(value, accessors)
            case _:
                plain[name] = value
    return plain


_BLOCK = "openkcm"


def self_init_stanzas(wanted: SetupConfig) -> str:
    """Return the desired state as OpenBao `initialize` blocks for the server's configuration.

    They run once, on the first start. A failure is final, because the server never unseals afterwards; so the launcher
    must delete the data folder of a server that did not start.
    """
    # Self-initialisation creates no recovery key. Without one, a later change of the static seal key silently fails and
    # makes the server inaccessible for good. This request creates one; it is not disclosed, and rotation works without.
    recovery = SetupRequest("recovery", "sys/rotate/recovery/init", {"secret_shares": 1, "secret_threshold": 1})
    requests = "\n".join(_stanza(request) for request in (*desired_state(wanted), recovery))
    return f'initialize "{_BLOCK}" {{\n{requests}\n}}\n'


def _stanza(request: SetupRequest) -> str:
    data = "" if request.operation == "read" else f"\n    data = {_hcl(request.data)}"
    return (
        f"  request {json.dumps(request.name)} {{\n"
        f"    operation = {json.dumps(request.operation)}\n"
        f"    path = {json.dumps(request.path)}{data}\n"
        "  }"
    )


def _hcl(value: "Scalar | Fields") -> str:
    """Return a value as HCL, whose strings have the escapes of JSON."""
    match value:
        case FileText(path):
            return _hcl({"eval_type": "string", "eval_source": "file", "path": str(path.resolve())})
        case WithAccessor(text, read_as):
            # Go's text/template: all but the accessor is a string constant, because the policy contains braces.
            answer = f'{{{{ (index .responses "{_BLOCK}" "{read_as}").data.accessor }}}}'
            template = answer.join(f"{{{{ {json.dumps(part)} }}}}" for part in text.split(ACCESSOR))
            return _hcl({"eval_type": "string", "eval_source": "template", "template": template})
        case Mapping():
            return "{ " + ", ".join(f"{name} = {_hcl(inner)}" for name, inner in value.items()) + " }"
        case tuple():
            return json.dumps(list(value))
        case _:
            return json.dumps(value)
