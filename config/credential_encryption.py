"""Customers' credentials on their way from who takes them in to the worker: encrypted to the worker's key (RFC 7516).

The dashboard and the command hold no identity at the key server and must not keep credentials; PostgreSQL and Temporal
must not see them. So they are sealed at once with the public half of a key that only the worker has, and bound to the
tenant and the request: what was sealed for one opens for no other.
"""

from joserfc import jwe
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

from core.errors.keys import RootKeyRefused
from core.errors.platform import SettingsInvalid
from core.keys.root_keys import Credentials

_ALGORITHM, _ENCRYPTION = "ECDH-ES", "A256GCM"
_REGISTRY = jwe.JWERegistry(algorithms=[_ALGORITHM, _ENCRYPTION], strict_check_header=False)


def encrypt_credentials(public_pem: str, tenant_id: str, request_id: str, credentials: Credentials) -> str:
    """Return the credentials as a compact JWE that the worker alone opens, for this tenant and request."""
    header = {"alg": _ALGORITHM, "enc": _ENCRYPTION, "tenant": tenant_id, "request": request_id}
    return jwe.encrypt_compact(header, credentials.dump(), _key(public_pem), registry=_REGISTRY)


def decrypt_credentials(private_pem: str, tenant_id: str, request_id: str, sealed: str) -> Credentials:
    """Return what was sealed; raises RootKeyRefused when it was altered or belongs to another tenant or request."""
    try:
        opened = jwe.decrypt_compact(sealed, _key(private_pem), registry=_REGISTRY)
    except (JoseError, ValueError):
        raise RootKeyRefused("the credentials were altered on their way", "give them again") from None
    if (opened.protected.get("tenant"), opened.protected.get("request")) != (tenant_id, request_id):
        raise RootKeyRefused("the credentials were given for something else", "give them again")
    return Credentials.load(opened.plaintext or b"")


def _key(pem: str) -> ECKey:
    try:
        return ECKey.import_key(pem)
    except (JoseError, ValueError):
        raise SettingsInvalid("the intake key is not readable", "make up writes intake.pem and intake.pub") from None
