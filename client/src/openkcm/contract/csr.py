"""Certificate requests (PKCS #10): creation by a service, and the rules by which they are accepted.

Both sides of a request use this module, and so does code that checks a request before it is stored.
"""

from typing import ClassVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from openkcm.errors import CallerError

LeafKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey
PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey

LONGEST = 16384
_RSA_BITS = range(2048, 8193)


class CsrRefused(CallerError):
    code: ClassVar[str] = "csr_refused"
    hint = "send a PKCS #10 request in PEM, self-signed, with an EC P-256 or P-384, Ed25519 or RSA (2048+) key"

    def __init__(self, reason: str) -> None:
        super().__init__(f"the certificate request was rejected: {reason}")


def new_key() -> ec.EllipticCurvePrivateKey:
    """Return a new P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: PrivateKey) -> str:
    """Return a key as PKCS #8 in PEM, not encrypted."""
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return pem.decode("ascii")


def request_of(key: PrivateKey) -> str:
    """Return a request with an empty subject: the CA alone determines the names in a certificate."""
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, algorithm)
    return request.public_bytes(serialization.Encoding.PEM).decode("ascii")


def is_of_same_key(csr_pem: str, certificate_pem: str) -> bool:
    """Return whether a certificate is for the key of a request; raises CsrRefused as `requested_key`."""
    return requested_key(csr_pem) == x509.load_pem_x509_certificate(certificate_pem.encode()).public_key()


def requested_key(csr_pem: str) -> LeafKey:
    """Return the public key of a request after proof of possession of the private key (RFC 2986).

    Nothing else of the request is used: the CA determines names and usages.

    Raises:
        CsrRefused: it is not a request, its key is weak or of an unknown kind, or its signature is invalid.
    """
    if len(csr_pem) > LONGEST:
        raise CsrRefused("it is too long")
    try:
        request = x509.load_pem_x509_csr(csr_pem.encode())
        key = request.public_key()
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion):
        raise CsrRefused("it cannot be read") from None
    match key:
        case ec.EllipticCurvePublicKey() if isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1):
            pass
        case rsa.RSAPublicKey() if key.key_size in _RSA_BITS:
            pass
        case ed25519.Ed25519PublicKey():
            pass
        case _:
            raise CsrRefused("its key has an unsupported kind or size")
    try:
        is_valid = request.is_signature_valid
    except (ValueError, UnsupportedAlgorithm):
        is_valid = False
    if not is_valid:
        raise CsrRefused("its signature does not match its key")
    return key
