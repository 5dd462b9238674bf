"""Signatures with keys that stay here: RSA (PKCS #1 v1.5 and PSS) and ECDSA.

SHA-1 is not among the hashes: what it signs today may be forged, and whoever must check old signatures can get the
public key and do it himself.
"""

from collections.abc import Mapping
from types import MappingProxyType

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from crypto.kmip.enums import DigitalSignatureAlgorithm, HashingAlgorithm, PaddingMethod
from crypto.kmip.fields import read_choice
from crypto.kmip.items import Item
from crypto.kmip.refusals import invalid
from crypto.kmip.tags import Tag

_D, _H, _P = DigitalSignatureAlgorithm, HashingAlgorithm, PaddingMethod
_HASHES: Mapping[int, hashes.HashAlgorithm] = MappingProxyType(
    {_H.SHA_224: hashes.SHA224(), _H.SHA_256: hashes.SHA256(), _H.SHA_384: hashes.SHA384(), _H.SHA_512: hashes.SHA512()}
)
_NAMED: Mapping[int, tuple[int, int | None]] = MappingProxyType(
    {
        _D.SHA224_WITH_RSA_ENCRYPTION: (_H.SHA_224, _P.PKCS1_V1_5),
        _D.SHA256_WITH_RSA_ENCRYPTION: (_H.SHA_256, _P.PKCS1_V1_5),
        _D.SHA384_WITH_RSA_ENCRYPTION: (_H.SHA_384, _P.PKCS1_V1_5),
        _D.SHA512_WITH_RSA_ENCRYPTION: (_H.SHA_512, _P.PKCS1_V1_5),
        _D.ECDSA_WITH_SHA224: (_H.SHA_224, None),
        _D.ECDSA_WITH_SHA256: (_H.SHA_256, None),
        _D.ECDSA_WITH_SHA384: (_H.SHA_384, None),
        _D.ECDSA_WITH_SHA512: (_H.SHA_512, None),
    }
)
"""Digital signature algorithm → hash and padding; RSASSA-PSS names its hash apart."""


class Scheme:
    """How a signature is made, as a request's cryptographic parameters say; raises KmipRefused for what is not done."""

    def __init__(self, parameters: Item) -> None:
        algorithm = read_choice(parameters, Tag.DIGITAL_SIGNATURE_ALGORITHM)
        hashing, padded = _NAMED.get(algorithm or 0, (None, None))
        if algorithm == _D.RSASSA_PSS:
            padded = _P.PSS
        elif algorithm is not None and hashing is None:
            raise invalid("this digital signature algorithm is not used")
        wanted = _HASHES.get(hashing or read_choice(parameters, Tag.HASHING_ALGORITHM) or 0)
        if wanted is None:
            raise invalid("the hashing algorithm is missing or not used for signatures")
        self.hash: hashes.HashAlgorithm = wanted
        self.padding = padded or read_choice(parameters, Tag.PADDING_METHOD)

    def of_rsa(self) -> padding.AsymmetricPadding:
        """Return the padding of an RSA signature."""
        if self.padding == _P.PKCS1_V1_5:
            return padding.PKCS1v15()
        if self.padding == _P.PSS:
            return padding.PSS(padding.MGF1(self.hash), self.hash.digest_size)
        raise invalid("the padding method of an RSA signature is PKCS1v1.5 or PSS")


def sign(private_der: bytes, scheme: Scheme, data: bytes) -> bytes:
    """Return the signature; ECDSA's as DER."""
    try:
        key = serialization.load_der_private_key(private_der, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise invalid("the private key is of a form that is not used here") from None
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(data, scheme.of_rsa(), scheme.hash)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(data, ec.ECDSA(scheme.hash))
    raise invalid("only RSA and elliptic curve keys sign")


def verifies(public_der: bytes, scheme: Scheme, data: bytes, signature: bytes) -> bool:
    """Whether the signature is the key's over the data."""
    try:
        key = serialization.load_der_public_key(public_der)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise invalid("the public key is of a form that is not used here") from None
    try:
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, data, scheme.of_rsa(), scheme.hash)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, data, ec.ECDSA(scheme.hash))
        else:
            raise invalid("only RSA and elliptic curve keys verify")
    except InvalidSignature:
        return False
    return True
