"""Envelope encryption in the caller's own process, with data keys that are asked for once and used often.

    message = version (1) | length of wrapped (2) | wrapped data key | salt (32) | AES-256-GCM ciphertext and tag

Key and nonce of a message are HKDF-SHA256(data key, salt, info = label and resource), so a key seals one message and a
nonce never repeats, however many messages, threads, forks or restored snapshots share a data key: only two equal
256-bit salts could make one. Everything before the ciphertext and the resource are associated data. The wrapped data
key travels in the message; opening it is the service's decision each time it is not in the cache.

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
"""The resource under which the service wraps the data keys; each message is bound to its own resource besides."""

_VERSION = 1
_HEADER = struct.Struct(">BH")
_SALT = 32
_KEY = 32
_NONCE = 12
_TAG = 16
_LABEL = b"openkcm local encryption 1\0"


@dataclass(frozen=True, slots=True)
class LocalLimits:
    """How long and how often one data key is used, and how many opened ones are kept."""

    seconds: float = 60.0
    messages: int = 100_000
    bytes: int = 1 << 36
    keys: int = 1000


@dataclass(slots=True)
class _Sealing:
    wrapped: str
    key: bytes = field(repr=False)
    until: float
    messages: int = 0
    bytes: int = 0


class LocalKeys:
    """The cache; safe to use from several threads. Python cannot overwrite what it drops."""

    def __init__(self, limits: LocalLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits, self._clock = limits, clock
        self._lock = threading.Lock()
        self._sealing: _Sealing | None = None
        self._opened: OrderedDict[str, tuple[bytes, float]] = OrderedDict()

    def encrypt(self, plaintext: bytes, resource: str, retry: Retry) -> Procedure[bytes]:
        """Return a message that `decrypt` opens under the same resource."""
        place = _place(resource)
        taken = self._take(len(plaintext))
        if taken is None:
            made = yield from perform(new_data_key(SCOPE, wrapped_only=False), retry)
            taken = self._keep_for_sealing(made, len(plaintext))
        wrapped, key = taken
        return _seal(wrapped, key, plaintext, place)

    def decrypt(self, message: bytes, resource: str, retry: Retry) -> Procedure[bytes]:
        """Return the plaintext; raises CiphertextRefused."""
        place = _place(resource)
        wrapped, begins = _wrapped_key(message)
        key = self._find(wrapped)
        if key is None:
            key = yield from perform(open_data_key(wrapped, SCOPE), retry)
            self._keep(wrapped, key)
        return _open(key, message, begins, place)

    def forget(self) -> None:
        """Drop every key."""
        with self._lock:
            self._sealing = None
            self._opened.clear()

    def _take(self, size: int) -> tuple[str, bytes] | None:
        with self._lock:
            found = self._sealing
            spent = found is not None and (
                self._clock() >= found.until
                or found.messages >= self._limits.messages
                or found.bytes + size > self._limits.bytes
            )
            if found is None or spent:
                self._sealing = None
                return None
            found.messages += 1
            found.bytes += size
            return found.wrapped, found.key

    def _keep_for_sealing(self, made: DataKey, size: int) -> tuple[str, bytes]:
        if made.plaintext is None or len(made.plaintext) != _KEY or len(made.wrapped) > 0xFFFF:
            raise ServiceFailed("answer_not_understood", "the service answered with no usable data key")
        with self._lock:
            until = self._clock() + self._limits.seconds
            self._sealing = _Sealing(made.wrapped, made.plaintext, until, messages=1, bytes=size)
        self._keep(made.wrapped, made.plaintext)
        return made.wrapped, made.plaintext

    def _find(self, wrapped: str) -> bytes | None:
        with self._lock:
            key, until = self._opened.get(wrapped, (b"", 0.0))
            if not key:
                return None
            if self._clock() >= until:
                del self._opened[wrapped]
                return None
            self._opened.move_to_end(wrapped)
            return key

    def _keep(self, wrapped: str, key: bytes) -> None:
        with self._lock:
            self._opened[wrapped] = key, self._clock() + self._limits.seconds
            self._opened.move_to_end(wrapped)
            while len(self._opened) > self._limits.keys:
                self._opened.popitem(last=False)


def _place(resource: str) -> bytes:
    try:
        encoded = resource.encode()
    except UnicodeEncodeError:
        encoded = b""
    if not encoded or len(resource) > 512:
        raise RequestRefused("invalid_request", "resource must be 1 to 512 characters of text")
    return encoded


def _seal(wrapped: str, key: bytes, plaintext: bytes, place: bytes) -> bytes:
    text = wrapped.encode("ascii")
    head = _HEADER.pack(_VERSION, len(text)) + text + os.urandom(_SALT)
    once, nonce = _derived(key, head[-_SALT:], place)
    return head + AESGCM(once).encrypt(nonce, plaintext, head + place)


def _wrapped_key(message: bytes) -> tuple[str, int]:
    """Return the wrapped data key and where the ciphertext begins; raises CiphertextRefused."""
    if len(message) < _HEADER.size:
        raise _refused()
    version, length = _HEADER.unpack_from(message)
    begins = _HEADER.size + length + _SALT
    wrapped = message[_HEADER.size : begins - _SALT]
    if version != _VERSION or len(message) < begins + _TAG or not length or not wrapped.isascii():
        raise _refused()
    return wrapped.decode("ascii"), begins


def _open(key: bytes, message: bytes, begins: int, place: bytes) -> bytes:
    head = message[:begins]
    once, nonce = _derived(key, head[-_SALT:], place)
    try:
        return AESGCM(once).decrypt(nonce, message[begins:], head + place)
    except InvalidTag:
        raise _refused() from None


def _derived(key: bytes, salt: bytes, place: bytes) -> tuple[bytes, bytes]:
    both = HKDF(hashes.SHA256(), _KEY + _NONCE, salt, _LABEL + place).derive(key)
    return both[:_KEY], both[_KEY:]


def _refused() -> CiphertextRefused:
    return CiphertextRefused(
        "ciphertext_refused",
        "the ciphertext does not open for this caller and resource",
        "send it unaltered, from the service that encrypted it, with the same resource",
    )
