"""Secret files: one folder with one file for each secret, readable only by their owner.

This module lists all names; a process reads only its own secrets. `openkcmctl setup` and the embedded stack create
missing files; otherwise the operator's secret store mounts them.

During a replacement a file has two values: first the new one, which its process uses, then the former one, which is
still accepted. A value is a line or a PEM block.
"""

import base64
import hmac
import os
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
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
    """Return the name of the file with a database role's password."""
    return f"database-{role}"


def context_key(role: str) -> str:
    """Return the name of the file with the key that signs a database role's tenant contexts (hex)."""
    return f"context-{role}"


def vault_secret(role: str) -> str:
    """Return the name of the file with a process's AppRole secret id."""
    return f"vault-{role}"


WEBHOOK_SECRETS = "webhook-secrets"
"""The Standard Webhooks secret with which the marketplace signs."""
MARKETPLACE_TOKEN = "marketplace-token"  # noqa: S105 - a file name
CALLBACK_SECRET = "callback-secret"  # noqa: S105 - a file name
SMTP_PASSWORD = "smtp-password"  # noqa: S105 - a file name
CODEC_TOKEN = "codec-token"  # noqa: S105 - a file name
OIDC_CLIENT_SECRET = "oidc-client-secret"  # noqa: S105 - a file name
"""The secret with which the dashboard authenticates at the single sign-on; generated for the development server."""
DASHBOARD_COOKIE = "dashboard-cookie"
"""The key that signs session cookies; during its replacement, the former one is accepted."""
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
    """Return the value of a secret that its process uses; raises as `read_secret_values` does."""
    return read_secret_values(folder, name)[0]


def read_secret_values(folder: Path, name: str) -> tuple[str, ...]:
    """Return a secret's value and, during its replacement, the former one, without surrounding white space.

    Raises:
        SettingsInvalid: the file is missing, unreadable, not UTF-8, empty, readable by others, or has more values.
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
    values = tuple(value.strip() for value in _VALUE.findall(text))
    if not values:
        raise SettingsInvalid(f"the secret {name} is empty", put)
    if len(values) > _MOST_VALUES:
        raise SettingsInvalid(
            f"the secret {name} has {len(values)} values",
            "keep one, or the new and the former one during a replacement",
        )
    return values


def is_private(mode: int, owner: int, user: int) -> bool:
    """Return whether the mode of a secret file excludes others than `user` and the file's owner.

    Only root can give a file to root, so an administrator chose who reads it as its group. PostgreSQL has the same rule
    for `ssl_key_file`.
    """
    return not mode & (_OTHERS_OF_ROOT if owner == 0 != user else _OTHERS)


def is_one_of(presented: str, values: Iterable[str]) -> bool:
    """Return whether a caller presented one of the values of a secret; the duration does not reveal which one."""
    # Compared as bytes: compare_digest rejects text with non-ASCII characters.
    return any([hmac.compare_digest(presented.encode(), value.encode()) for value in values])  # noqa: C419 - see above


def read_database_password(folder: Path, role: str) -> str:
    """Return a database role's password; during its replacement with the former one on a second line.

    With that one the process logs in until the database has the new one.
    """
    return "\n".join(read_secret_values(folder, database_password(role)))


def ensure_secret(folder: Path, name: str, value: str | None = None) -> str:
    """Return the secret `name`; write `value` (default: 32 random bytes, hex) with mode 0600 if it does not exist.

    Raises:
        SettingsInvalid: the file cannot be written, or `read_secret` rejects the existing file.
    """
    if not (folder / name).exists():
        _write(folder, name, value if value is not None else _random())
    return read_secret(folder, name)


def _write(folder: Path, name: str, text: str) -> None:
    """Write a secret file at once: after a crash it has either its former or its new text."""
    draft = folder / f".{name}.new"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft.unlink(missing_ok=True)
        draft.touch(mode=0o600)
        with draft.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(folder / name)
    except OSError as failed:
        raise SettingsInvalid(
            f"the secret {name} cannot be written into {folder}: {os_reason(failed)}",
            "run as the owner of that folder, or set OPENKCM_SECRETS_DIR to another",
        ) from failed


def database_credentials(folder: Path) -> tuple[dict[str, str], dict[str, bytes]]:
    """Return the password of the migrator and each process, and the context key of each process.

    A role whose file does not exist is absent.
    """
    passwords = {
        role: read_secret(folder, database_password(role))
        for role in (MIGRATOR, *DATABASE_ROLES)
        if (folder / database_password(role)).exists()
    }
    return passwords, {
        role: bytes.fromhex(read_secret(folder, context_key(role)))
        for role in DATABASE_ROLES
        if (folder / context_key(role)).exists()
    }


ROLES = (Role.WORKER, Role.CODEC, Role.CRYPTO, Role.OFFBOARDING, Role.OPERATOR)
"""The roles that log in at the key server."""

MIGRATOR = "migrator"
BOUNDARY_PUBLIC_KEY = "boundary-identity.pub"
"""The public key of `boundary-identity.pem`, with which the key server verifies tenant tokens."""
DATABASE_ROLES = (Role.WORKER, Role.MARKETPLACE, Role.OPERATOR, Role.CRYPTO, Role.DASHBOARD)
_VALUE = re.compile(r"\s*-----BEGIN .*?-----END [^\n]*|[^\n]*[^\s][^\n]*", re.DOTALL)
_MOST_VALUES = 2
_WEBHOOK_KEY_BYTES = 32
_PAIRS = {BOUNDARY_IDENTITY: BOUNDARY_PUBLIC_KEY, INTAKE_KEY: INTAKE_PUBLIC_KEY}


def ensure_secrets(folder: Path) -> None:
    """Create every missing secret file. Of the existing ones only public keys change, to those of the private keys."""
    for name, new_value in _NEW_VALUES.items():
        # A host with only the public key encrypts for a private key of another host.
        if name not in _PAIRS:
            ensure_secret(folder, name, new_value())
        elif (folder / name).exists() or not (folder / _PAIRS[name]).exists():
            ensure_pair(folder, name, _PAIRS[name])
    ensure_secret(folder, OIDC_CLIENT_SECRET)


def add_new_values(folder: Path, names: Iterable[str]) -> tuple[str, ...]:
    """Write a new value before the present one of each secret, and return the names of the secrets that got one.

    A secret with two values keeps them, so this can be repeated until it has succeeded.

    Raises:
        SettingsInvalid: a secret is missing, is not generated here, or cannot be written.
    """
    changed = []
    for name in _require_generated(names):
        values = read_secret_values(folder, name)
        if len(values) < _MOST_VALUES:
            _write(folder, name, f"{_NEW_VALUES[name]()}\n{values[0]}")
            changed.append(name)
        if name in _PAIRS:
            ensure_pair(folder, name, _PAIRS[name])
    return tuple(changed)


def remove_former_values(folder: Path, names: Iterable[str]) -> tuple[str, ...]:
    """Remove the former value of each secret, and return the names of the secrets that had one; raises as above."""
    changed = []
    for name in _require_generated(names):
        values = read_secret_values(folder, name)
        if len(values) > 1:
            _write(folder, name, values[0])
            changed.append(name)
    return tuple(changed)


def _require_generated(names: Iterable[str]) -> tuple[str, ...]:
    wanted = tuple(names)
    for name in wanted:
        if name not in _NEW_VALUES:
            raise SettingsInvalid(f"{name} is not a secret that OpenKCM generates", f"one of {', '.join(_NEW_VALUES)}")
    return wanted or tuple(_NEW_VALUES)


def webhook_secret() -> str:
    """Return a new secret in the format of Standard Webhooks."""
    return "whsec_" + base64.b64encode(os.urandom(_WEBHOOK_KEY_BYTES)).decode()


def ensure_pair(folder: Path, private: str, public: str) -> None:
    """Create a key pair, or write the public key of the existing private key."""
    if not (folder / private).exists():
        _write(folder, private, _private_key())
    derived = public_key(folder, private)
    if not (folder / public).exists() or read_secret(folder, public) != derived:
        _write(folder, public, derived)


def boundary_public_key(folder: Path) -> str | None:
    """Return the PEM of the host's key for tenant tokens without writing it; None without one."""
    if (folder / BOUNDARY_IDENTITY).exists():
        return public_key(folder, BOUNDARY_IDENTITY)
    return read_secret(folder, BOUNDARY_PUBLIC_KEY) if (folder / BOUNDARY_PUBLIC_KEY).exists() else None


def public_key(folder: Path, private: str) -> str:
    """Return the public key (PEM) of a private key in the folder."""
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - heavy, and needed once

    key = serialization.load_pem_private_key(read_secret(folder, private).encode(), password=None).public_key()
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_bytes(serialization.Encoding.PEM, form).decode().strip()


def _private_key() -> str:
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - heavy, and needed once
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415 - the same

    made = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return made.decode().strip()


def _random() -> str:
    return secrets.token_hex(32)


_NEW_VALUES: Mapping[str, Callable[[], str]] = {
    **{database_password(role): _random for role in (MIGRATOR, *DATABASE_ROLES)},
    **{context_key(role): _random for role in DATABASE_ROLES},
    **{vault_secret(role): _random for role in ROLES},
    WEBHOOK_SECRETS: webhook_secret,
    CALLBACK_SECRET: webhook_secret,
    MARKETPLACE_TOKEN: _random,
    CODEC_TOKEN: _random,
    DASHBOARD_COOKIE: _random,
    **dict.fromkeys(_PAIRS, _private_key),
}
"""How each secret that OpenKCM generates is made. Not the client secret of the single sign-on, which its provider sets;
the generated one is for the development server."""
