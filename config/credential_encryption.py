"""Encryption of customers' credentials on the way from the dashboard or command to the worker (JWE, RFC 7516).

The dashboard and the command have no identity at the key server and must not store credentials; PostgreSQL and Temporal
must not see them. They encrypt credentials at once with the worker's public key and bind them to tenant and request.
Decryption for another tenant or request fails.
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
    header = {"alg": _ALGORITHM, "enc": _ENCRYPTION, "tenant": tenant_id, "request": request_id}
    return jwe.encrypt_compact(header, credentials.dump(), _key(public_pem), registry=_REGISTRY)


def decrypt_credentials(private_pems: Sequence[str], tenant_id: str, request_id: str, sealed: str) -> Credentials:
    """Return the credentials, encrypted for one of the private keys.

    Raises:
        RootKeyRefused: they are altered, encrypted for another key, or belong to another tenant or request.
    """
    for private_pem in private_pems:
        key = _key(private_pem)
        with suppress(JoseError, ValueError):
            decrypted = jwe.decrypt_compact(sealed, key, registry=_REGISTRY)
            break
    else:
        raise RootKeyRefused(
            "the credentials were altered in transit, or the intake key was replaced", "submit them again"
        )
    if (decrypted.protected.get("tenant"), decrypted.protected.get("request")) != (tenant_id, request_id):
        raise RootKeyRefused("the credentials belong to another tenant or request", "submit them again")
    return Credentials.load(decrypted.plaintext or b"")


def _key(pem: str) -> ECKey:
    try:
        return ECKey.import_key(pem)
    except (JoseError, ValueError):
        raise SettingsInvalid(
            "the intake key is not readable",
            "restore intake.pem and intake.pub; the setup creates both if they are missing",
        ) from None
