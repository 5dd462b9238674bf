"""RSA and elliptic curve keys in use: encryption with RSA (OAEP and PKCS #1 v1.5), signatures with RSA and ECDSA.

SHA-1 makes no signatures, because others can be forged with them; it verifies old ones (SP 800-131A, section 3: legacy
use), if a client requests it by name. OAEP does not need collision resistance, so a client may request it by name.
Functions that use a key take up to milliseconds, so they MUST run in a thread.
"""

from collections.abc import Mapping
from types import MappingProxyType

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from core.errors.services import CiphertextRefused
from crypto_service.kmip.codec.enums import DigitalSignatureAlgorithm, HashingAlgorithm, PaddingMethod
from crypto_service.kmip.codec.errors import invalid
from crypto_service.kmip.codec.fields import read_choice, read_number, read_octets
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item
from crypto_service.kmip.objects.algorithms import HASHES
from crypto_service.kmip.objects.key_formats import load_private, load_public

_D, _H, _P = DigitalSignatureAlgorithm, HashingAlgorithm, PaddingMethod
_NAMED: Mapping[int, tuple[int, int | None]] = MappingProxyType(
    {
        _D.SHA1_WITH_RSA_ENCRYPTION: (_H.SHA_1, _P.PKCS1_V1_5),
        _D.SHA224_WITH_RSA_ENCRYPTION: (_H.SHA_224, _P.PKCS1_V1_5),
        _D.SHA256_WITH_RSA_ENCRYPTION: (_H.SHA_256, _P.PKCS1_V1_5),
        _D.SHA384_WITH_RSA_ENCRYPTION: (_H.SHA_384, _P.PKCS1_V1_5),
        _D.SHA512_WITH_RSA_ENCRYPTION: (_H.SHA_512, _P.PKCS1_V1_5),
        _D.ECDSA_WITH_SHA1: (_H.SHA_1, None),
        _D.ECDSA_WITH_SHA224: (_H.SHA_224, None),
        _D.ECDSA_WITH_SHA256: (_H.SHA_256, None),
        _D.ECDSA_WITH_SHA384: (_H.SHA_384, None),
        _D.ECDSA_WITH_SHA512: (_H.SHA_512, None),
    }
)
"""Digital signature algorithm → hash and padding; RSASSA-PSS specifies its hash separately."""


_HASHES_AND_SHA_1: Mapping[int, hashes.HashAlgorithm] = MappingProxyType({**HASHES, _H.SHA_1: hashes.SHA1()})  # noqa: S303 - see above
_MGF1, _TRAILER_BC = 1, 1


class SignatureScheme:
    """Signature parameters from a request's cryptographic parameters; raises KmipRefused for unsupported ones."""

    def __init__(self, parameters: Item, digest: bytes | None = None, *, verifies: bool) -> None:
        """With `digest`, the client has hashed the data; with `verifies`, SHA-1 is accepted."""
        algorithm = read_choice(parameters, Tag.DIGITAL_SIGNATURE_ALGORITHM)
        hashing, padded = _NAMED.get(algorithm or 0, (None, None))
        if algorithm == _D.RSASSA_PSS:
            padded = _P.PSS
        elif algorithm is not None and hashing is None:
            raise invalid("the digital signature algorithm is not supported")
        accepted = _HASHES_AND_SHA_1 if verifies else HASHES
        wanted = accepted.get(hashing or read_choice(parameters, Tag.HASHING_ALGORITHM) or 0)
        if wanted is None:
            raise invalid("the hashing algorithm is missing or not supported for signatures")
        if digest is not None and len(digest) != wanted.digest_size:
            raise invalid("the digested data does not have the size of the hash")
        self.hash: hashes.HashAlgorithm = wanted
        self.input: hashes.HashAlgorithm | Prehashed = wanted if digest is None else Prehashed(wanted)
        self.padding = padded or read_choice(parameters, Tag.PADDING_METHOD)
        self._mask = mask_of(parameters, wanted)
        self._salt = read_number(parameters, Tag.SALT_LENGTH)
        if read_number(parameters, Tag.TRAILER_FIELD) not in (None, _TRAILER_BC):
            raise invalid("the trailer field must be 1")

    def signing(self, key: rsa.RSAPrivateKey) -> padding.AsymmetricPadding:
        """Return the padding of a new RSA signature; without a given length, the salt of PSS is as long as the hash."""
        return self._of_rsa(key, padding.PSS(self._mask, self.hash.digest_size))

    def verifying(self, key: rsa.RSAPublicKey) -> padding.AsymmetricPadding:
        """Return the padding of an RSA signature; without a given length, the salt of PSS may have every length."""
        return self._of_rsa(key, padding.PSS(self._mask, padding.PSS.AUTO))

    def _of_rsa(self, key: rsa.RSAPrivateKey | rsa.RSAPublicKey, unstated: padding.PSS) -> padding.AsymmetricPadding:
        if self.padding == _P.PKCS1_V1_5:
            return padding.PKCS1v15()
        if self.padding != _P.PSS:
            raise invalid("the padding method of an RSA signature must be PKCS1v1.5 or PSS")
        if self._salt is None:
            return unstated
        if not 0 <= self._salt <= padding.calculate_max_pss_salt_length(key, self.hash):
            raise invalid("the key does not support this salt length")
        return padding.PSS(self._mask, self._salt)


def mask_of(parameters: Item, hashing: hashes.HashAlgorithm) -> padding.MGF1:
    """Return the mask generator of PSS or OAEP, by default with the hash of the scheme.

    The specification's default is SHA-1, which only a request by name selects here: other implementations use one hash
    for both.
    """
    if read_choice(parameters, Tag.MASK_GENERATOR) not in (None, _MGF1):
        raise invalid("the mask generator must be MGF1")
    given = read_choice(parameters, Tag.MASK_GENERATOR_HASHING_ALGORITHM)
    wanted = hashing if given is None else _HASHES_AND_SHA_1.get(given)
    if wanted is None:
        raise invalid("the hashing algorithm of the mask generator is not supported")
    return padding.MGF1(wanted)


PUBLIC_KEY_COST = 8
"""The cost of a verification or encryption for `Limits.charge`: at most 0.4 ms, with the largest size and exponent."""


class EncryptionScheme:
    """Encryption parameters for an RSA key; raises KmipRefused for unsupported ones."""

    def __init__(self, parameters: Item) -> None:
        method = read_choice(parameters, Tag.PADDING_METHOD)
        self.padding: padding.AsymmetricPadding = padding.PKCS1v15()
        if method == _P.OAEP:
            hashing = _HASHES_AND_SHA_1.get(read_choice(parameters, Tag.HASHING_ALGORITHM) or 0)
            if hashing is None:
                raise invalid("the hashing algorithm is missing or not supported for OAEP")
            label = read_octets(parameters, Tag.P_SOURCE)
            self.padding = padding.OAEP(mask_of(parameters, hashing), hashing, label)
        elif method != _P.PKCS1_V1_5:
            raise invalid("the padding method of an RSA encryption must be OAEP or PKCS1v1.5")


def encrypt(public: Item, scheme: EncryptionScheme, data: bytes) -> bytes:
    """Return the ciphertext, as long as the modulus."""
    key = load_public(public)
    if not isinstance(key, rsa.RSAPublicKey):
        raise invalid("encryption requires an RSA key")
    try:
        return key.encrypt(data, scheme.padding)
    except ValueError:
        raise invalid("the data is too long for the key and the padding method") from None


def decrypt(private: Item, scheme: EncryptionScheme, data: bytes) -> bytes:
    """Return the plaintext; raise CiphertextRefused, which does not state what is wrong.

    Wrong PKCS #1 v1.5 padding is no error: OpenSSL returns a pseudorandom plaintext instead, which depends on the key
    and the ciphertext only (implicit rejection, since 3.2). So a client with captured ciphertexts learns nothing about
    their padding (Bleichenbacher 1998). Other errors depend on the ciphertext's number, which is public.
    """
    key = load_private(private)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise invalid("decryption requires an RSA key")
    try:
        return key.decrypt(data, scheme.padding)
    except ValueError:
        raise CiphertextRefused from None


def sign(private: Item, scheme: SignatureScheme, data: bytes) -> bytes:
    """Return the signature of the data, or of the digest that `scheme` expects; for ECDSA in DER."""
    key = load_private(private)
    if isinstance(key, rsa.RSAPrivateKey):
        try:
            return key.sign(data, scheme.signing(key), scheme.input)
        except ValueError:
            raise invalid("the RSA key is too small for the hash and the salt length") from None
    return key.sign(data, ec.ECDSA(scheme.input))


def is_valid_signature(public: Item, scheme: SignatureScheme, data: bytes, signature: bytes) -> bool:
    """Return whether the signature over the data is valid for the key."""
    key = load_public(public)
    try:
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, data, scheme.verifying(key), scheme.input)
        else:
            key.verify(signature, data, ec.ECDSA(scheme.input))
    except InvalidSignature:
        return False
    return True
