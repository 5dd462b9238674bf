"""Encryption of customers' secrets on the way from the dashboard or command to the worker (JWE, RFC 7516).

The dashboard and the command have no identity at the key server and must not store secrets; PostgreSQL and Temporal
must not see them. They encrypt a secret at once with the worker's public key and bind it to the tenant and to a request
or the number of a signing secret. Decryption for another tenant or request fails.
"""

from collections.abc import Sequence
from contextlib import suppress

from joserfc import jwe
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

from core.errors.keys import RootKeyRefused
from core.errors.platform import SettingsInvalid
from core.keys.root_keys import Credentials

_ALGORITHM, _ENCRYPTION = "ECDH-ES", "A256GCM"
_REGISTRY = jwe.JWERegistry(algorithms=[_ALGORITHM, _ENCRYPTION], strict_check_header=False)


def encrypt_credentials(public_pem: str, tenant_id: str, request_id: str, credentials: Credentials) -> str:
    """Return the credentials as a compact JWE that only the worker can decrypt, for this tenant and request."""
    return _encrypt(public_pem, tenant_id, request_id, credentials.dump())


def decrypt_credentials(private_pems: Sequence[str], tenant_id: str, request_id: str, sealed: str) -> Credentials:
    """Return the credentials, encrypted for one of the private keys.

    Raises:
        RootKeyRefused: they are altered, encrypted for another key, or belong to another tenant or request.
    """
    decrypted = _decrypt(private_pems, sealed)
    if decrypted is None:
        raise RootKeyRefused(
            "the credentials were altered in transit, or the intake key was replaced", "submit them again"
        )
    if _is_bound(decrypted, tenant_id, request_id):
        return Credentials.load(decrypted.plaintext or b"")
    raise RootKeyRefused("the credentials belong to another tenant or request", "submit them again")


def encrypt_signing_secret(public_pem: str, tenant_id: str, ref: str, secret: str) -> str:
    """Return the signing secret of a webhook as a compact JWE that only the worker can decrypt.

    `ref` is its name (`core.notifications.targets.secret_ref`).
    """
    return _encrypt(public_pem, tenant_id, ref, secret.encode("ascii"))


def decrypt_signing_secret(private_pems: Sequence[str], tenant_id: str, ref: str, sealed: str) -> str | None:
    """Return a signing secret; None if it is altered, encrypted for another key, or has another tenant or name."""
    decrypted = _decrypt(private_pems, sealed)
    if decrypted is None or not _is_bound(decrypted, tenant_id, ref):
        return None
    return (decrypted.plaintext or b"").decode("ascii")


def _encrypt(public_pem: str, tenant_id: str, ref: str, secret: bytes) -> str:
    header = {"alg": _ALGORITHM, "enc": _ENCRYPTION, "tenant": tenant_id, "request": ref}
    return jwe.encrypt_compact(header, secret, _key(public_pem), registry=_REGISTRY)


def _decrypt(private_pems: Sequence[str], sealed: str) -> jwe.CompactEncryption | None:
    for private_pem in private_pems:
        key = _key(private_pem)
        with suppress(JoseError, ValueError):
            return jwe.decrypt_compact(sealed, key, registry=_REGISTRY)
    return None


def _is_bound(decrypted: jwe.CompactEncryption, tenant_id: str, ref: str) -> bool:
    return (decrypted.protected.get("tenant"), decrypted.protected.get("request")) == (tenant_id, ref)


def _key(pem: str) -> ECKey:
    try:
        return ECKey.import_key(pem)
    except (JoseError, ValueError):
        raise SettingsInvalid(
            "the intake key is not readable",
            "restore intake.pem and intake.pub; the setup creates both if they are missing",
        ) from None
