"""Envelope encryption in the caller's process with data keys that are requested once and used often.

    message = version (1) | length of wrapped (2) | wrapped data key | salt (32) | AES-256-GCM ciphertext and tag

Key and nonce of a message are HKDF-SHA256(data key, salt, info = label and resource), so a key encrypts one message. A
nonce never repeats, however many messages, threads, forks or restored snapshots share a data key: only two equal
256-bit salts could repeat one. Everything before the ciphertext and the resource are associated data. The message
contains the wrapped data key; the service decides about each unwrap that the cache cannot answer.

A cached data key keeps working for at most its TTL after the tenant is locked or the service disconnected.
"""

import os
import struct
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from openkcm.sdk.errors import CiphertextRefused, RequestRefused, ServiceFailed
from openkcm.sdk.protocol import DataKey, Procedure, Retry, new_data_key, open_data_key, perform

SCOPE = "local-encryption"
"""The resource of the data keys at the service; each message is additionally bound to its own resource."""

_VERSION = 1
_HEADER = struct.Struct(">BH")
_SALT = 32
_KEY = 32
_NONCE = 12
_TAG = 16
_LABEL = b"openkcm local encryption 1\0"


@dataclass(frozen=True, slots=True)
class LocalLimits:
    """How long and how often one data key is used, and how many unwrapped keys are cached."""

    seconds: float = 60.0
    messages: int = 100_000
    bytes: int = 1 << 36
    keys: int = 1000


@dataclass(slots=True)
class _EncryptionKey:
    wrapped: str
    key: bytes = field(repr=False)
    until: float
    messages: int = 0
    bytes: int = 0


class LocalKeys:
    """The cache of data keys; thread-safe. Python cannot overwrite the memory of a discarded key."""

    def __init__(self, limits: LocalLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits, self._clock = limits, clock
        self._lock = threading.Lock()
        self._encryption_key: _EncryptionKey | None = None
        self._unwrapped: OrderedDict[str, tuple[bytes, float]] = OrderedDict()

    def encrypt(self, plaintext: bytes, resource: str, retry: Retry) -> Procedure[bytes]:
        """Return a message that `decrypt` accepts with the same resource."""
        context = _encoded_resource(resource)
        current = self._current_key(len(plaintext))
        if current is None:
            until = self._until()
            created = yield from perform(new_data_key(SCOPE, wrapped_only=False), retry)
            current = self._store_encryption_key(created, len(plaintext), until)
        wrapped, key = current
        return _seal(wrapped, key, plaintext, context)

    def decrypt(self, message: bytes, resource: str, retry: Retry) -> Procedure[bytes]:
        """Return the plaintext; raises CiphertextRefused."""
        context = _encoded_resource(resource)
        wrapped, begins = _wrapped_key(message)
        key = self._find(wrapped)
        if key is None:
            until = self._until()
            key = yield from perform(open_data_key(wrapped, SCOPE), retry)
            self._store(wrapped, key, until)
        return _open(key, message, begins, context)

    def forget(self) -> None:
        """Discard every key."""
        with self._lock:
            self._encryption_key = None
            self._unwrapped.clear()

    def _until(self) -> float:
        """Return the time limit of a key that is requested now: the tenant may be locked before the response."""
        return self._clock() + self._limits.seconds

    def _current_key(self, size: int) -> tuple[str, bytes] | None:
        with self._lock:
            found = self._encryption_key
            spent = found is not None and (
                self._clock() >= found.until
                or found.messages >= self._limits.messages
                or found.bytes + size > self._limits.bytes
            )
            if found is None or spent:
                self._encryption_key = None
                return None
            found.messages += 1
            found.bytes += size
            return found.wrapped, found.key

    def _store_encryption_key(self, created: DataKey, size: int, until: float) -> tuple[str, bytes]:
        if created.plaintext is None or len(created.plaintext) != _KEY or len(created.wrapped) > 0xFFFF:
            raise ServiceFailed("unexpected_response", "the service returned an unusable data key")
        with self._lock:
            self._encryption_key = _EncryptionKey(created.wrapped, created.plaintext, until, messages=1, bytes=size)
        self._store(created.wrapped, created.plaintext, until)
        return created.wrapped, created.plaintext

    def _find(self, wrapped: str) -> bytes | None:
        with self._lock:
            key, until = self._unwrapped.get(wrapped, (b"", 0.0))
            if not key:
                return None
            if self._clock() >= until:
                del self._unwrapped[wrapped]
                return None
            self._unwrapped.move_to_end(wrapped)
            return key

    def _store(self, wrapped: str, key: bytes, until: float) -> None:
        with self._lock:
            self._unwrapped[wrapped] = key, until
            self._unwrapped.move_to_end(wrapped)
            while len(self._unwrapped) > self._limits.keys:
                self._unwrapped.popitem(last=False)


def _encoded_resource(resource: str) -> bytes:
    try:
        encoded = resource.encode()
    except UnicodeEncodeError:
        encoded = b""
    if not encoded or len(resource) > 512:
        raise RequestRefused("invalid_request", "resource must be 1 to 512 characters of text")
    return encoded


def _seal(wrapped: str, key: bytes, plaintext: bytes, context: bytes) -> bytes:
    text = wrapped.encode("ascii")
    head = _HEADER.pack(_VERSION, len(text)) + text + os.urandom(_SALT)
    once, nonce = _derived(key, head[-_SALT:], context)
    return head + AESGCM(once).encrypt(nonce, plaintext, head + context)


def _wrapped_key(message: bytes) -> tuple[str, int]:
    """Return the wrapped data key and the offset of the ciphertext; raises CiphertextRefused."""
    if len(message) < _HEADER.size:
        raise _rejected()
    version, length = _HEADER.unpack_from(message)
    begins = _HEADER.size + length + _SALT
    wrapped = message[_HEADER.size : begins - _SALT]
    if version != _VERSION or len(message) < begins + _TAG or not length or not wrapped.isascii():
        raise _rejected()
    return wrapped.decode("ascii"), begins


def _open(key: bytes, message: bytes, begins: int, context: bytes) -> bytes:
    head = message[:begins]
    once, nonce = _derived(key, head[-_SALT:], context)
    try:
        return AESGCM(once).decrypt(nonce, message[begins:], head + context)
    except InvalidTag:
        raise _rejected() from None


def _derived(key: bytes, salt: bytes, context: bytes) -> tuple[bytes, bytes]:
    both = HKDF(hashes.SHA256(), _KEY + _NONCE, salt, _LABEL + context).derive(key)
    return both[:_KEY], both[_KEY:]


def _rejected() -> CiphertextRefused:
    return CiphertextRefused(
        "ciphertext_refused",
        "the ciphertext cannot be decrypted for this caller and resource",
        "send it unchanged, from the service that encrypted it, with the same resource",
    )
