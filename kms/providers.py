"""The providers of customers' root keys."""

from typing import Any

from core.errors.keys import RootKeyRefused
from core.keys.root_keys import Credentials, Place, RootKeyMode, refuse_incomplete
from kms.aws.root_key import AwsKms
from kms.egress_policy import EgressPolicy
from kms.interfaces import RootKey
from kms.openbao.root_key import OpenBao
from kms.pkcs11.root_key import Pkcs11

PROVIDERS = {
    RootKeyMode.AWS_KMS: AwsKms,
    RootKeyMode.PKCS11: Pkcs11,
    RootKeyMode.OPENBAO: OpenBao,
}


class RootKeyProviders:
    """The providers of one process; all root keys share their connections and sessions.

    A provider connects or loads a module only when a root key is used, so a process may fork until then.
    """

    def __init__(self, reach: EgressPolicy) -> None:
        self._providers: dict[RootKeyMode, Any] = {mode: provider(reach) for mode, provider in PROVIDERS.items()}

    def open(self, tenant_id: str, place: Place, credentials: Credentials) -> RootKey:
        """Return the root key without a call to its server; safe to share between threads, cheap to cache.

        Raises RootKeyRefused: the credentials do not match the reference, or the operator's settings exclude it.
        """
        refuse_incomplete(place, credentials)
        provider = self._providers.get(place.provider)
        if provider is None:
            raise RootKeyRefused("the platform's root key has no provider")
        root_key: RootKey = provider.open(tenant_id, place, credentials)
        return root_key
