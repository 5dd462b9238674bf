"""Secret files: one folder with one file for each secret, readable only by their owner.

This module lists all names; a process reads only its own secrets. `openkcmctl setup` and the embedded stack create
missing files and never change existing ones; otherwise the operator's secret store mounts them.
"""

import base64
import os
import secrets
from enum import StrEnum
from pathlib import Path

from core.errors.platform import SettingsInvalid
from openkcm.errors import os_reason

_OTHERS = 0o077
_OTHERS_OF_ROOT = 0o037
"""Forbidden bits of a file that belongs to root: systemd and Kubernetes let a process read it as group or by an ACL."""


class Role(StrEnum):
    """Identities at PostgreSQL, at Vault or at both: one for each process, and one for offboarding."""

    WORKER = "worker"
    MARKETPLACE = "marketplace"
    OPERATOR = "operator"
    CODEC = "codec"
    CRYPTO = "crypto"
    DASHBOARD = "dashboard"
    OFFBOARDING = "offboarding"
    """With it the worker destroys the keys of offboarded tenants; the regular identity of the worker cannot."""


def database_password(role: str) -> str:
    """Return the name of the file with a database role's password.

    A second line is the former password, with which a process logs in until the database has the new one.
    """
    return f"database-{role}"


def context_key(role: str) -> str:
    """Return the name of the file with the key that signs a database role's tenant contexts (hex)."""
    return f"context-{role}"


def vault_secret(role: str) -> str:
    """Return the name of the file with a process's AppRole secret id."""
    return f"vault-{role}"


WEBHOOK_SECRETS = "webhook-secrets"
"""Standard Webhooks secrets, one a line, at most two: the current one and, during a rotation, the previous one."""
MARKETPLACE_TOKEN = "marketplace-token"  # noqa: S105 - a file name
CALLBACK_SECRET = "callback-secret"  # noqa: S105 - a file name
SMTP_PASSWORD = "smtp-password"  # noqa: S105 - a file name
CODEC_TOKEN = "codec-token"  # noqa: S105 - a file name
OIDC_CLIENT_SECRET = "oidc-client-secret"  # noqa: S105 - a file name
"""The secret with which the dashboard authenticates at the single sign-on; generated for the development server."""
DASHBOARD_COOKIE = "dashboard-cookie"
"""The key that signs session cookies; a new key ends every session."""
DATABASE_ADMIN = "database-admin"
"""`user:password` of a role with LOGIN, CREATEROLE and CREATEDB; only `openkcmctl setup database` reads it."""
VAULT_ADMIN = "vault-admin"
"""An administrator's token; only `openkcmctl setup vault` reads it."""
BOUNDARY_IDENTITY = "boundary-identity.pem"
"""The EC P-256 key with which the worker signs the short-lived JWTs of an isolation check."""

INTAKE_KEY = "intake.pem"
"""The EC P-256 key that decrypts customers' credentials; only the worker has it."""
INTAKE_PUBLIC_KEY = "intake.pub"
"""Its public key, with which the dashboard and the command encrypt credentials."""


def read_secret(folder: Path, name: str) -> str:
    """Return a secret file's text without surrounding white space.

    Raises:
        SettingsInvalid: the file is missing, unreadable, not UTF-8, empty, or readable by others.
    """
    path = folder / name
    put = f"put it into {folder} with mode 0600"
    try:
        found = path.stat()
        text = path.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        raise SettingsInvalid(f"the secret {name} is not UTF-8 text", put) from None
    except OSError as failed:
        hint = put if isinstance(failed, FileNotFoundError) else f"run as the user who owns {path}"
        raise SettingsInvalid(f"the secret {name} cannot be read: {os_reason(failed)}", hint) from failed
    if not is_private(found.st_mode, found.st_uid, os.geteuid()):
        raise SettingsInvalid(f"the secret {name} is readable by others", f"chmod 600 {path}")
    if not text:
        raise SettingsInvalid(f"the secret {name} is empty", put)
    return text


def is_private(mode: int, owner: int, user: int) -> bool:
    """Return whether the mode of a secret file excludes others than `user` and the file's owner.

    Only root can give a file to root, so an administrator chose who reads it as its group. PostgreSQL has the same rule
    for `ssl_key_file`.
    """
    return not mode & (_OTHERS_OF_ROOT if owner == 0 != user else _OTHERS)


def read_secret_lines(folder: Path, name: str) -> tuple[str, ...]:
    """Return the non-empty lines of a secret file."""
    return tuple(line.strip() for line in read_secret(folder, name).splitlines() if line.strip())


def ensure_secret(folder: Path, name: str, value: str | None = None) -> str:
    """Return the secret `name`; write `value` (default: 32 random bytes, hex) with mode 0600 if it does not exist.

    Raises:
        SettingsInvalid: the file cannot be written, or `read_secret` rejects the existing file.
    """
    path = folder / name
    try:
        if not path.exists():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft = folder / f".{name}.new"
            draft.unlink(missing_ok=True)
            draft.touch(mode=0o600)
            draft.write_text(value if value is not None else secrets.token_hex(32), encoding="utf-8")
            draft.replace(path)
    except OSError as failed:
        raise SettingsInvalid(
            f"the secret {name} cannot be written into {folder}: {os_reason(failed)}",
            "run as the owner of that folder, or set OPENKCM_SECRETS_DIR to another",
        ) from failed
    return read_secret(folder, name)


def database_credentials(folder: Path) -> tuple[dict[str, str], dict[str, bytes]]:
    """Return the current password of the migrator and each process, and the context key of each process."""
    passwords = {role: read_secret_lines(folder, database_password(role))[0] for role in (MIGRATOR, *DATABASE_ROLES)}
    return passwords, {role: bytes.fromhex(read_secret(folder, context_key(role))) for role in DATABASE_ROLES}


ROLES = (Role.WORKER, Role.CODEC, Role.CRYPTO, Role.OFFBOARDING, Role.OPERATOR)
"""The roles that log in at the key server."""

MIGRATOR = "migrator"
BOUNDARY_PUBLIC_KEY = "boundary-identity.pub"
"""The public key of `boundary-identity.pem`, with which the key server verifies tenant tokens."""
DATABASE_ROLES = (Role.WORKER, Role.MARKETPLACE, Role.OPERATOR, Role.CRYPTO, Role.DASHBOARD)
_WEBHOOK_KEY_BYTES = 32


def ensure_secrets(folder: Path) -> None:
    """Create every missing secret file; existing files are unchanged."""
    for role in (MIGRATOR, *DATABASE_ROLES):
        ensure_secret(folder, database_password(role))
    for role in DATABASE_ROLES:
        ensure_secret(folder, context_key(role))
    for role in ROLES:
        ensure_secret(folder, vault_secret(role))
    for name in (WEBHOOK_SECRETS, CALLBACK_SECRET):
        ensure_secret(folder, name, webhook_secret())
    for name in (
        MARKETPLACE_TOKEN,
        CODEC_TOKEN,
        OIDC_CLIENT_SECRET,
        DASHBOARD_COOKIE,
    ):
        ensure_secret(folder, name)
    for private, public in (
        (BOUNDARY_IDENTITY, BOUNDARY_PUBLIC_KEY),
        (INTAKE_KEY, INTAKE_PUBLIC_KEY),
    ):
        if not (folder / public).exists():
            ensure_pair(folder, private, public)


def webhook_secret() -> str:
    """Return a new secret in the format of Standard Webhooks."""
    return "whsec_" + base64.b64encode(os.urandom(_WEBHOOK_KEY_BYTES)).decode()


def ensure_pair(folder: Path, private: str, public: str) -> None:
    """Create a key pair, or only the public key if the private key exists."""
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - heavy, and needed once
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415 - the same

    if not (folder / private).exists():
        made = ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        ensure_secret(folder, private, made.decode())
    key = serialization.load_pem_private_key(read_secret(folder, private).encode(), password=None).public_key()
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    ensure_secret(folder, public, key.public_bytes(serialization.Encoding.PEM, form).decode())
