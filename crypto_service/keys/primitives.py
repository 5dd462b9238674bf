"""The only module that calls `cryptography` for symmetric keys: AES in every mode, AES key wrap, HKDF, HMAC and CMAC.

It raises only two errors. `InvalidRequest`: a key, nonce or text has an invalid size, which is named without its value.
`CiphertextRefused`: verification failed; the error does not state which byte was wrong. Associated data has no default.
A MAC is never truncated, and a GCM tag only if a KMIP client requests it by its size. Wycheproof's vectors, including
invalid ones, run through exactly these functions (tests/crypto_service/keys/test_primitives.py).
"""

import hmac
from collections.abc import Callable
from enum import StrEnum

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import cmac, hashes, keywrap, padding
from cryptography.hazmat.primitives.ciphers import AEADEncryptionContext, Cipher, CipherContext, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from core.errors.services import CiphertextRefused, InvalidRequest

GCM_TAG = 16
"""Bytes of a tag, unless a client requests fewer: each bit less doubles the chance of a forgery."""
GCM_TAGS = (4, 8, 12, 13, 14, 15, 16)
"""The sizes of SP 800-38D, section 5.2.1.2; its appendix C limits the use of the first two."""
GCM_NONCE = 12
"""Bytes of a nonce generated here, unless a client requests more."""
GCM_NONCES = range(8, 129)
"""Bytes of a nonce from a client: what OpenSSL supports through `cryptography`."""
BLOCK = 16
_AES_KEYS = (16, 24, 32)
_KW_LEAST = 16
_KW_UNIT = 8
_KW_MOST = 65_536
_HKDF_MOST = 255 * 32
_HMAC_KEY_LEAST = 14
"""112 bits: SP 800-131A permits no shorter HMAC key."""
_SHA256 = hashes.SHA256()


class Hash(StrEnum):
    """The hashes of a MAC; SHA-1 because KMIP clients request it, and HMAC does not require collision resistance."""

    SHA_1 = "sha1"
    SHA_256 = "sha256"
    SHA_384 = "sha384"
    SHA_512 = "sha512"


def aes_gcm_encrypt(
    key: bytes, nonce: bytes, plaintext: bytes, associated_data: bytes, tag_size: int = GCM_TAG
) -> bytes:
    """Return ciphertext and tag, concatenated. The caller MUST never reuse a nonce with the same key."""
    _check_gcm(key, nonce, tag_size)
    sealed = AESGCM(key).encrypt(nonce, plaintext, associated_data)
    return sealed if tag_size == GCM_TAG else sealed[: tag_size - GCM_TAG]


def aes_gcm_decrypt(
    key: bytes, nonce: bytes, ciphertext: bytes, associated_data: bytes, tag_size: int = GCM_TAG
) -> bytes:
    """Return the plaintext of a concatenated ciphertext and tag; raise CiphertextRefused."""
    _check_gcm(key, nonce, tag_size)
    try:
        if tag_size == GCM_TAG:
            return AESGCM(key).decrypt(nonce, ciphertext, associated_data)
        if len(ciphertext) < tag_size:
            raise CiphertextRefused
        mode = modes.GCM(nonce, ciphertext[-tag_size:], min_tag_length=tag_size)
        context = Cipher(algorithms.AES(key), mode).decryptor()
        context.authenticate_additional_data(associated_data)
        return _run(context, ciphertext[:-tag_size])
    except InvalidTag:  # a text shorter than the tag also ends here
        raise CiphertextRefused from None


def aes_cbc_encrypt(key: bytes, iv: bytes, plaintext: bytes, *, padded: bool = True) -> bytes:
    """Encrypt with PKCS#7 padding (KMIP's PKCS5), or whole blocks without. The result is not authenticated."""
    _check_cbc(key, iv)
    return _encrypted(Cipher(algorithms.AES(key), modes.CBC(iv)), plaintext, padded=padded)


def aes_cbc_decrypt(key: bytes, iv: bytes, ciphertext: bytes, *, padded: bool = True) -> bytes:
    """Decrypt; raise CiphertextRefused when the padding is wrong.

    This error is a padding oracle by nature. It is available only to the service that may decrypt with this key.
    """
    _check_cbc(key, iv)
    return _decrypted(Cipher(algorithms.AES(key), modes.CBC(iv)), ciphertext, padded=padded)


def insecure_ecb_encrypt(key: bytes, plaintext: bytes, *, padded: bool) -> bytes:
    """Encrypt each block separately: equal blocks remain visible. Only for KMIP clients that request ECB by name."""
    _check_aes_key(key)
    return _encrypted(Cipher(algorithms.AES(key), modes.ECB()), plaintext, padded=padded)  # noqa: S305 - see above


def insecure_ecb_decrypt(key: bytes, ciphertext: bytes, *, padded: bool) -> bytes:
    """Invert `insecure_ecb_encrypt`; raise CiphertextRefused when the padding is wrong."""
    _check_aes_key(key)
    return _decrypted(Cipher(algorithms.AES(key), modes.ECB()), ciphertext, padded=padded)  # noqa: S305 - see above


def aes_kw_wrap(key: bytes, material: bytes) -> bytes:
    """Wrap key material of whole 8-byte units, 16 bytes or more (RFC 3394)."""
    _check_aes_key(key)
    if not _KW_LEAST <= len(material) <= _KW_MOST or len(material) % _KW_UNIT:
        raise InvalidRequest("the key material has a size that AES key wrap does not support")
    return keywrap.aes_key_wrap(key, material)


def aes_kw_unwrap(key: bytes, wrapped: bytes) -> bytes:
    """Invert `aes_kw_wrap`; raise CiphertextRefused."""
    _check_aes_key(key)
    if len(wrapped) > _KW_MOST + _KW_UNIT:
        raise CiphertextRefused
    try:
        return keywrap.aes_key_unwrap(key, wrapped)
    except keywrap.InvalidUnwrap:
        raise CiphertextRefused from None


def aes_kwp_wrap(key: bytes, material: bytes) -> bytes:
    """Wrap key material of any size from 1 byte (RFC 5649)."""
    _check_aes_key(key)
    if not 1 <= len(material) <= _KW_MOST:
        raise InvalidRequest("the key material has a size that AES key wrap with padding does not support")
    return keywrap.aes_key_wrap_with_padding(key, material)


def aes_kwp_unwrap(key: bytes, wrapped: bytes) -> bytes:
    """Invert `aes_kwp_wrap`; raise CiphertextRefused."""
    _check_aes_key(key)
    if len(wrapped) > _KW_MOST + 2 * _KW_UNIT:
        raise CiphertextRefused
    try:
        return keywrap.aes_key_unwrap_with_padding(key, wrapped)
    except keywrap.InvalidUnwrap:
        raise CiphertextRefused from None


def hkdf_sha256(key: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """Return `length` bytes derived with extract and expand (RFC 5869)."""
    if not 1 <= length <= _HKDF_MOST:
        raise InvalidRequest("no key of this length can be derived")
    return HKDF(_SHA256, length, salt, info).derive(key)


def hmac_digest(algorithm: Hash, key: bytes, message: bytes) -> bytes:
    """Return the complete MAC (RFC 2104), as long as the hash."""
    if len(key) < _HMAC_KEY_LEAST:
        raise InvalidRequest("the HMAC key is shorter than 112 bits")
    return hmac.digest(key, message, algorithm.value)


def hmac_verify(algorithm: Hash, key: bytes, message: bytes, tag: bytes) -> None:
    """Raise CiphertextRefused unless `tag` is the complete MAC of `message`; a truncated one is rejected."""
    if not hmac.compare_digest(hmac_digest(algorithm, key, message), tag):
        raise CiphertextRefused


def aes_cmac(key: bytes, message: bytes) -> bytes:
    """Return the complete MAC of 16 bytes (SP 800-38B)."""
    _check_aes_key(key)
    context = cmac.CMAC(algorithms.AES(key))
    context.update(message)
    return context.finalize()


def aes_cmac_verify(key: bytes, message: bytes, tag: bytes) -> None:
    """Raise CiphertextRefused unless `tag` is the complete MAC of `message`; a truncated one is rejected."""
    if not hmac.compare_digest(aes_cmac(key, message), tag):
        raise CiphertextRefused


def aes_gmac(key: bytes, nonce: bytes, message: bytes) -> bytes:
    """Return the MAC of 16 bytes (SP 800-38D). The caller MUST never reuse a nonce with the same key, also of GCM."""
    return aes_gcm_encrypt(key, nonce, b"", message)


def aes_gmac_verify(key: bytes, nonce: bytes, message: bytes, tag: bytes) -> None:
    """Raise CiphertextRefused unless `tag` is the complete MAC of `message`; a truncated one is rejected."""
    if not hmac.compare_digest(aes_gmac(key, nonce, message), tag):
        raise CiphertextRefused


class Encryptor:
    """An encryption of data that arrives in pieces."""

    def __init__(self, context: CipherContext, *, padded: bool, tag_size: int = 0) -> None:
        self._context, self._tag_size, self._size = context, tag_size, 0
        self._padder = padding.PKCS7(8 * BLOCK).padder() if padded else None
        self._whole_blocks = not padded and not tag_size

    def update(self, data: bytes) -> bytes:
        """Return the ciphertext that is complete so far."""
        self._size += len(data)
        return self._context.update(data if self._padder is None else self._padder.update(data))

    def finish(self) -> tuple[bytes, bytes]:
        """Return the rest of the ciphertext and the tag, which is empty except for GCM; raise InvalidRequest."""
        if self._whole_blocks and self._size % BLOCK:
            raise InvalidRequest("without padding the data must be whole blocks of 16 bytes")
        rest = b"" if self._padder is None else self._context.update(self._padder.finalize())
        rest += self._context.finalize()
        tag = self._context.tag[: self._tag_size] if isinstance(self._context, AEADEncryptionContext) else b""
        return rest, tag


class Decryptor:
    """A decryption of data that arrives in pieces. Not for GCM: its plaintext is verified only at the end."""

    def __init__(self, context: CipherContext, *, padded: bool) -> None:
        self._context, self._padded, self._size = context, padded, 0
        self._unpadder = padding.PKCS7(8 * BLOCK).unpadder() if padded else None

    def update(self, data: bytes) -> bytes:
        """Return the plaintext that is complete so far."""
        self._size += len(data)
        plaintext = self._context.update(data)
        return plaintext if self._unpadder is None else self._unpadder.update(plaintext)

    def finish(self) -> bytes:
        """Return the rest of the plaintext; raise CiphertextRefused."""
        if self._size % BLOCK or (self._padded and not self._size):
            raise CiphertextRefused
        rest = self._context.finalize()
        try:
            return rest if self._unpadder is None else self._unpadder.update(rest) + self._unpadder.finalize()
        except ValueError:
            raise CiphertextRefused from None


def aes_gcm_encryptor(key: bytes, nonce: bytes, associated_data: bytes, tag_size: int) -> Encryptor:
    """Return an encryption as `aes_gcm_encrypt`."""
    _check_gcm(key, nonce, tag_size)
    context = Cipher(algorithms.AES(key), modes.GCM(nonce)).encryptor()
    context.authenticate_additional_data(associated_data)
    return Encryptor(context, padded=False, tag_size=tag_size)


def aes_cbc_encryptor(key: bytes, iv: bytes, *, padded: bool) -> Encryptor:
    """Return an encryption as `aes_cbc_encrypt`."""
    _check_cbc(key, iv)
    return Encryptor(Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor(), padded=padded)


def aes_cbc_decryptor(key: bytes, iv: bytes, *, padded: bool) -> Decryptor:
    """Return a decryption as `aes_cbc_decrypt`."""
    _check_cbc(key, iv)
    return Decryptor(Cipher(algorithms.AES(key), modes.CBC(iv)).decryptor(), padded=padded)


def insecure_ecb_encryptor(key: bytes, *, padded: bool) -> Encryptor:
    """Return an encryption as `insecure_ecb_encrypt`."""
    _check_aes_key(key)
    return Encryptor(Cipher(algorithms.AES(key), modes.ECB()).encryptor(), padded=padded)  # noqa: S305 - see above


def insecure_ecb_decryptor(key: bytes, *, padded: bool) -> Decryptor:
    """Return a decryption as `insecure_ecb_decrypt`."""
    _check_aes_key(key)
    return Decryptor(Cipher(algorithms.AES(key), modes.ECB()).decryptor(), padded=padded)  # noqa: S305 - see above


class MacContext:
    """A MAC of a message that arrives in pieces, as `hmac_digest`, or without a hash as `aes_cmac`."""

    def __init__(self, key: bytes, algorithm: Hash | None) -> None:
        if algorithm is None:
            _check_aes_key(key)
            cmac_context = cmac.CMAC(algorithms.AES(key))
            self.update: Callable[[bytes], None] = cmac_context.update
            self._finish: Callable[[], bytes] = cmac_context.finalize
            return
        if len(key) < _HMAC_KEY_LEAST:
            raise InvalidRequest("the HMAC key is shorter than 112 bits")
        hmac_context = hmac.new(key, digestmod=algorithm.value)
        self.update, self._finish = hmac_context.update, hmac_context.digest

    def finish(self) -> bytes:
        """Return the complete MAC."""
        return self._finish()

    def verify(self, tag: bytes) -> bool:
        """Return whether `tag` is the complete MAC; a truncated one is not."""
        return hmac.compare_digest(self._finish(), tag)


def _encrypted(cipher: "Cipher[modes.CBC] | Cipher[modes.ECB]", plaintext: bytes, *, padded: bool) -> bytes:
    if padded:
        padder = padding.PKCS7(8 * BLOCK).padder()
        plaintext = padder.update(plaintext) + padder.finalize()
    elif len(plaintext) % BLOCK:
        raise InvalidRequest("without padding the data must be whole blocks of 16 bytes")
    return _run(cipher.encryptor(), plaintext)


def _decrypted(cipher: "Cipher[modes.CBC] | Cipher[modes.ECB]", ciphertext: bytes, *, padded: bool) -> bytes:
    if len(ciphertext) % BLOCK or (padded and not ciphertext):
        raise CiphertextRefused
    plaintext = _run(cipher.decryptor(), ciphertext)
    if not padded:
        return plaintext
    unpadder = padding.PKCS7(8 * BLOCK).unpadder()
    try:
        return unpadder.update(plaintext) + unpadder.finalize()
    except ValueError:
        raise CiphertextRefused from None


def _run(context: CipherContext, text: bytes) -> bytes:
    return context.update(text) + context.finalize()


def _check_gcm(key: bytes, nonce: bytes, tag_size: int) -> None:
    _check_aes_key(key)
    if len(nonce) not in GCM_NONCES:
        raise InvalidRequest("the nonce must have 8 to 128 bytes")
    if tag_size not in GCM_TAGS:
        raise InvalidRequest("the tag must have 4, 8 or 12 to 16 bytes")


def _check_cbc(key: bytes, iv: bytes) -> None:
    _check_aes_key(key)
    if len(iv) != BLOCK:
        raise InvalidRequest("the initialization vector must have 16 bytes")


def _check_aes_key(key: bytes) -> None:
    if len(key) not in _AES_KEYS:
        raise InvalidRequest("the key must have 16, 24 or 32 bytes")
