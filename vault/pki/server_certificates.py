"""Certificates for the crypto service's listeners, signed by the PKI root through a restricted role.

The role (`setup.SERVER_ROLE`) signs only certificates for TLS servers with the configured names. None of them is valid
as a tenant's certificate: those come from a tenant CA, and this role signs no CA.
"""

from collections.abc import Sequence
from datetime import timedelta
from ipaddress import ip_address

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from core.errors.platform import ConflictingResource, SettingsInvalid
from openkcm.contract.csr import CsrRefused
from openkcm.errors import InvalidName
from vault.auth.client import VaultClient, VaultRejected
from vault.setup import SERVER_ROLE, is_address

LONGEST_SERVER_CERTIFICATE = timedelta(hours=72)


class PkiServerCertificates:
    """The issuance of certificates for the platform's TLS servers, by a role that signs only server names."""

    def __init__(self, session: VaultClient) -> None:
        self._session = session

    def sign(self, csr_pem: str, names: Sequence[str], lifetime: timedelta) -> tuple[str, str]:
        """Return certificate and root as PEM for a CSR; only the key of the CSR is used.

        Args:
            csr_pem: PKCS #10, self-signed, with an EC key of 224 bits or more or an RSA key of 2048 bits or more; the
                names in it are ignored.
            names: DNS names and IP addresses.
            lifetime: at most 72 hours.

        Raises:
            CsrRefused: the CSR is invalid, or its key is too small.
            SettingsInvalid: the role does not allow one of the names.
            InvalidName: the lifetime is not allowed, or there is no name.
            ConflictingResource: the signed certificate differs from the request.
        """
        if not timedelta(seconds=1) <= lifetime <= LONGEST_SERVER_CERTIFICATE:
            raise InvalidName("lifetime", "at least a second and at most 72 hours")
        if not names:
            raise InvalidName("names", "at least one")
        addresses = [name for name in names if is_address(name)]
        hosts = [name for name in names if not is_address(name)]
        wanted = {
            "csr": csr_pem,
            "alt_names": ",".join(hosts),
            "ip_sans": ",".join(addresses),
            "ttl": f"{int(lifetime.total_seconds())}s",
        }
        if hosts:
            # A subject, because without one alternative names must be critical (RFC 5280 4.2.1.6), and PKI omits that.
            wanted["common_name"] = hosts[0]
        try:
            answer = self._session.write(f"pki/sign/{SERVER_ROLE}", wanted)
        except VaultRejected as rejected:
            raise _refusal(rejected, names) from rejected
        certificate, root = str(answer["certificate"]), str(answer["issuing_ca"])
        _check(certificate, root, csr_pem, names)
        return f"{certificate}\n", f"{root}\n"


def _refusal(rejected: VaultRejected, names: Sequence[str]) -> Exception:
    if "not allowed" in rejected.reason or "subject alternate name" in rejected.reason:
        return SettingsInvalid(
            f"the key server signs no certificate for {', '.join(names)}",
            "after a change of crypto_names run openkcmctl setup vault, or restart an embedded key server",
        )
    if "csr" in rejected.reason.lower() or "key" in rejected.reason.lower():
        return CsrRefused("a self-signed request with an EC or RSA key is required")
    return rejected


def _check(certificate_pem: str, root_pem: str, csr_pem: str, names: Sequence[str]) -> None:
    """Raise ConflictingResource unless the root signed these names for the CSR's key; PKI may ignore parameters."""
    certificate = x509.load_pem_x509_certificate(certificate_pem.encode())
    request = x509.load_pem_x509_csr(csr_pem.encode())
    alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    signed = {str(name.value) for name in alternatives}
    try:
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(root_pem.encode()))
    except (ValueError, TypeError, InvalidSignature):
        raise ConflictingResource("certificate", SERVER_ROLE, "the root did not sign it") from None
    if signed != {str(ip_address(name)) if is_address(name) else name for name in names}:
        raise ConflictingResource("certificate", SERVER_ROLE, "it has other names")
    if _der(certificate.public_key()) != _der(request.public_key()):
        raise ConflictingResource("certificate", SERVER_ROLE, "it certifies another key")


def _der(key: CertificatePublicKeyTypes) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
