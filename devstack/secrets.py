"""The secret files of an embedded stack: each made once, readable by its owner alone, and then left as it is."""

import base64
import os
from pathlib import Path

from config import secrets
from config.secrets import Role, ensure_secret, read_secret

MIGRATOR = "migrator"
BOUNDARY_PUBLIC_KEY = "boundary-identity.pub"
"""The public half of `boundary-identity.pem`, which the key server checks tenant tokens with."""
DATABASE_ROLES = (Role.WORKER, Role.MARKETPLACE, Role.OPERATOR, Role.CRYPTO, Role.DASHBOARD)
_WEBHOOK_KEY_BYTES = 32


def ensure_secrets(folder: Path) -> None:
    """Make every secret file that is missing; change none that is there."""
    for role in (MIGRATOR, *DATABASE_ROLES):
        ensure_secret(folder, secrets.database_password(role))
    for role in DATABASE_ROLES:
        ensure_secret(folder, secrets.context_key(role))
    for role in Role:
        ensure_secret(folder, secrets.vault_secret(role))
    for name in (secrets.WEBHOOK_SECRETS, secrets.CALLBACK_SECRET):
        ensure_secret(folder, name, webhook_secret())
    for name in (
        secrets.MARKETPLACE_TOKEN,
        secrets.CODEC_TOKEN,
        secrets.OIDC_CLIENT_SECRET,
        secrets.DASHBOARD_COOKIE,
    ):
        ensure_secret(folder, name)
    for private, public in (
        (secrets.BOUNDARY_IDENTITY, BOUNDARY_PUBLIC_KEY),
        (secrets.INTAKE_KEY, secrets.INTAKE_PUBLIC_KEY),
    ):
        if not (folder / public).exists():
            ensure_pair(folder, private, public)


def webhook_secret() -> str:
    """Return a fresh secret in the form Standard Webhooks asks for."""
    return "whsec_" + base64.b64encode(os.urandom(_WEBHOOK_KEY_BYTES)).decode()


def ensure_pair(folder: Path, private: str, public: str) -> None:
    """Make a key pair, or its public half beside a private one that is there."""
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
