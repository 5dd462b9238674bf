"""The ciphertext format, and why a ciphertext decrypts only in its encryption context.

    sealed = kind (1) | version of the L3 (4) | salt (32) | AES-256-GCM ciphertext and tag
    text   = "okcm:v1:" | base64url(sealed), without padding

Key and nonce of each message are HKDF-SHA256(L3, salt, info = context). The associated data are the format, everything
before the ciphertext, and the context again (MTCI C2). Therefore:

- No limit on nonces applies. GCM's bound of 2^32 messages under one key with random nonces is not relevant, because
  a derived key encrypts one message. Two messages share a key only if two of the 256-bit salts are equal: after 2^64
  messages of one service the probability is below 2^-128.
- A ciphertext that was moved to another tenant, L2, service, purpose or resource is decrypted with a different key
  (C3), and an altered header fails authentication. The context is computed from the caller; the text contains none.
- Base64url can encode the same bytes in several ways; only the encoding that `to_text` writes is accepted, so no bit
  may differ.

`kind` also identifies the format: a later format of managed objects, which have no "v1" prefix, takes new numbers.
"""

import os
import struct
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import pybase64

from core.errors.services import CiphertextRefused, InvalidRequest
from core.keys.encryption_context import EncryptionContext, Purpose
from crypto_service.interfaces import ServiceKey
from crypto_service.keys import primitives

PREFIX = "okcm:v1:"
LARGEST = 1 << 24
"""Bytes of the largest plaintext, far above the limit of the servers."""

_KINDS: Mapping[Purpose, int] = MappingProxyType({Purpose.DATA: 1, Purpose.DATA_KEY: 2, Purpose.MANAGED_OBJECT: 3})
_PURPOSES: Mapping[int, Purpose] = MappingProxyType({kind: purpose for purpose, kind in _KINDS.items()})
_HEADER = struct.Struct(">BI")
_FORMAT = PREFIX.encode("ascii")
_URL_SAFE = b"-_"
_SALT = 32
_KEY = 32
_BODY = _HEADER.size + _SALT
_OVERHEAD = _BODY + primitives.GCM_TAG
_LONGEST_TEXT = len(PREFIX) + (LARGEST + _OVERHEAD + 2) // 3 * 4


class Header(NamedTuple):
    """The header of a ciphertext: unauthenticated before decryption, and used only to select the key."""

    purpose: Purpose
    key_version: int


def seal(
    key: ServiceKey, context: EncryptionContext, plaintext: bytes, random: Callable[[int], bytes] = os.urandom
) -> bytes:
    """Return `plaintext` encrypted in `context`, whose purpose must be data, data key or managed object.

    Raises: InvalidRequest when it is larger than `LARGEST`, InvalidName as `EncryptionContext.encode`.
    """
    if len(plaintext) > LARGEST:
        raise InvalidRequest("the plaintext is too large")
    salt = random(_SALT)
    header = _HEADER.pack(_KINDS[context.purpose], key.version) + salt
    place = context.encode()
    once, nonce = _derived(key, salt, place)
    return header + primitives.aes_gcm_encrypt(once, nonce, plaintext, _FORMAT + header + place)


def unseal(key: ServiceKey, context: EncryptionContext, sealed: bytes) -> bytes:
    """Return the plaintext.

    Raises: CiphertextRefused alike for altered bytes and for another key, version, purpose or context; InvalidName.
    """
    _require_size(sealed)
    if _HEADER.unpack_from(sealed) != (_KINDS.get(context.purpose), key.version):
        raise CiphertextRefused
    place = context.encode()
    once, nonce = _derived(key, sealed[_HEADER.size : _BODY], place)
    return primitives.aes_gcm_decrypt(once, nonce, sealed[_BODY:], _FORMAT + sealed[:_BODY] + place)


def header(sealed: bytes) -> Header:
    """Return the header of `sealed`; raise CiphertextRefused when it does not have this format."""
    _require_size(sealed)
    kind, key_version = _HEADER.unpack_from(sealed)
    purpose = _PURPOSES.get(kind)
    if purpose is None or key_version < 1:
        raise CiphertextRefused
    return Header(purpose, key_version)


def to_text(sealed: bytes) -> str:
    """Return the ciphertext as the text that callers store."""
    return PREFIX + pybase64.b64encode_as_string(sealed, _URL_SAFE).rstrip("=")


def from_text(text: str) -> bytes:
    """Return the ciphertext of a text; raise CiphertextRefused unless `to_text` writes exactly this text."""
    if not text.startswith(PREFIX) or len(text) > _LONGEST_TEXT:
        raise CiphertextRefused
    body = text[len(PREFIX) :]
    if "+" in body or "/" in body:
        raise CiphertextRefused
    try:
        sealed = pybase64.b64decode(body + "=" * (-len(body) % 4), _URL_SAFE, validate=True)
    except ValueError:
        raise CiphertextRefused from None
    if to_text(sealed) != text:
        raise CiphertextRefused
    return sealed


def _require_size(sealed: bytes) -> None:
    if not _OVERHEAD <= len(sealed) <= LARGEST + _OVERHEAD:
        raise CiphertextRefused


def _derived(key: ServiceKey, salt: bytes, place: bytes) -> tuple[bytes, bytes]:
    both = primitives.hkdf_sha256(key.material, salt, place, _KEY + primitives.GCM_NONCE)
    return both[:_KEY], both[_KEY:]
