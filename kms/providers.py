"""Every provider of root keys that customers hold, in one table."""

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
    """Opens root keys; one for a process, whose connections and sessions all of them share.

    Nothing is connected to or loaded before an opened root key is used, so a process may fork until then.
    """

    def __init__(self, reach: EgressPolicy) -> None:
        self._providers: dict[RootKeyMode, Any] = {mode: provider(reach) for mode, provider in PROVIDERS.items()}

    def open(self, tenant_id: str, place: Place, credentials: Credentials) -> RootKey:
        """Return the root key without asking its server anything; safe to share between threads, cheap to keep.

        Raises RootKeyRefused: credentials that do not fit the place, or a place that the operator's settings exclude.
        """
        refuse_incomplete(place, credentials)
        provider = self._providers.get(place.provider)
        if provider is None:
            raise RootKeyRefused("the platform's own key is not opened here")
        opened: RootKey = provider.open(tenant_id, place, credentials)
        return opened
