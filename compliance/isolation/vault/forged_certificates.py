"""Signer of certificates for attacks: signed by the real tenant CA, but never issued, so they must be rejected."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from openkcm.contract.names import service_spiffe, tenant_dns
from vault.auth.client import VaultClient
from vault.pki.certificates import Authority, IssuedCertificate, LeafNames, build_leaf, hex_serial, load_issuer
from vault.transit.keys import ForgedLeaf

_LIFETIME = timedelta(minutes=5)


def _utc_now() -> datetime:
    return datetime.now(UTC)


class ForgedCertificateSigner:
    """Signs with the tenant CA's key in Transit, with the rights of the controller."""

    def __init__(self, session: VaultClient, now: Callable[[], datetime] = _utc_now) -> None:
        self._session = session
        self._now = now

    def forge(
        self, tenant_id: str, authority: Authority, key: ec.EllipticCurvePublicKey, wanted: Sequence[ForgedLeaf]
    ) -> Sequence[IssuedCertificate]:
        """Return a short-lived certificate of `key` for each item in `wanted`, signed by the CA of `tenant_id`."""
        issuer = load_issuer(self._session, tenant_id, authority.certificate_pem, authority.key_version)
        made = []
        for one in wanted:
            names = LeafNames(one.service, tenant_dns(one.dns_of), service_spiffe(one.tenant_id, one.service))
            serial = None if one.serial is None else int(one.serial, 16)
            leaf = build_leaf(issuer, key, names, self._now(), _LIFETIME, serial)
            pem = leaf.public_bytes(serialization.Encoding.PEM).decode()
            made.append(IssuedCertificate(hex_serial(leaf), pem, leaf.not_valid_after_utc))
        return made
