"""The format of an encrypted value, and why it decrypts only in its row.

    sealed        = version of the column key (4) | session (16) | nonce (12) | AES-256-GCM ciphertext and tag
    text column   = "okcm:c1:" | base64(sealed), or "okcm:c2:" | base64(tag) without its padding (22) | base64(sealed)
    bytea column  = 00 "okcm" 01 | sealed,          or 00 "okcm" 02 | tag (16) | sealed

The key of a session is HMAC-SHA256(column key, label, session). Each process draws a random session for each column
key, and another one after a fork and after 2^20 values. Its random nonces therefore stay far below GCM's bound (a
chance of 2^-57 in a session), however many processes, forks and years share a column key. Two sessions share a key only
if they draw the same 128 bits.

The place, an injective encoding of store, schema, table, column and primary key, is associated data. Tenant and service
are bound by the column key, which the crypto service unwraps for that service alone. A value that was moved to another
row, column, table, service or tenant cannot be decrypted.

The second form is for columns with equality queries. Its tag is HMAC-SHA256 of the column and the plaintext under the
column's tag key, cut to 128 bits. Equal values of a column have equal tags, and the form reveals only that.
"""

import binascii
import hmac
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC

TEXT_PREFIX = ("okcm:c1:", "okcm:c2:")
BYTES_PREFIX = (b"\0okcm\1", b"\0okcm\2")
TAG_TEXT = len(TEXT_PREFIX[1]) + 22
"""Characters of a deterministic text before its ciphertext; equality compares them."""
_TEXT = TEXT_PREFIX[0].encode("ascii")
TAG_BYTES = len(BYTES_PREFIX[1]) + 16

_VERSION, SESSION, _NONCE, _GCM_TAG, _MAC = 4, 16, 12, 16, 16
START = _VERSION + SESSION
"""Bytes of a sealed value that identify its key."""
HEAD = START + _NONCE
AROUND = HEAD + _GCM_TAG
"""The number of bytes that a sealed value is longer than its plaintext."""
_USES = 1 << 20
_SESSIONS_KEPT = 4096
_LABEL = b"openkcm column value 1\0"
_TAG_LABEL = b"openkcm column tag 1\0"
ONE_BYTE_LESS, TWO_BYTES_LESS = frozenset("AEIMQUYcgkosw048"), frozenset("AQgw")
"""Characters without unused bits, as the last one before "=" and before "==" in a base64 text.

Together with a length that is a multiple of four, since strict decoding ignores some padding at the end, this makes the
encoding of a value unique."""

KeyValue = int | str | bytes | UUID

_processes = [object()]
"""A different object in each process, so that a child never continues the session of its parent or siblings."""
os.register_at_fork(after_in_child=lambda: _processes.__setitem__(0, object()))


class NotEncrypted(Exception):
    """The bytes are not an encrypted value."""


class DecryptionFailed(Exception):
    """An encrypted value of another place or key, or an altered one."""


@dataclass(slots=True, eq=False)
class ColumnKey:
    """An unwrapped column key; thread-safe and fork-safe: each process has its own session."""

    version: int
    material: bytes = field(repr=False)
    _ciphers: dict[bytes, AESGCM] = field(default_factory=dict, repr=False)
    _macs: dict[bytes, HMAC] = field(default_factory=dict, repr=False)
    _session: tuple[bytes, AESGCM] | None = field(default=None, repr=False)
    _left: int = 0
    _process: object = field(default=None, repr=False)

    def cipher(self, session: bytes) -> AESGCM:
        found = self._ciphers.get(session)
        if found is None:
            if len(self._ciphers) >= _SESSIONS_KEPT:
                self._ciphers.clear()
            found = self._ciphers[session] = AESGCM(hmac.digest(self.material, _LABEL + session, "sha256"))
        return found

    def mac(self, column: bytes) -> HMAC:
        """Return the HMAC of a column's tags, which the caller copies: setting up the key costs half of an HMAC."""
        found = self._macs.get(column)
        if found is None:
            found = HMAC(self.material, SHA256())
            found.update(_TAG_LABEL + column)
            self._macs[column] = found
        return found

    def encryption_session(self) -> tuple[bytes, AESGCM]:
        """Return the first bytes of a value, and the cipher to encrypt it."""
        if self._session is None or self._left <= 0 or self._process is not _processes[0]:
            session = os.urandom(SESSION)
            self._session, self._left = (self.version.to_bytes(_VERSION, "big") + session, self.cipher(session)), _USES
            self._process = _processes[0]
        self._left -= 1
        return self._session


def column_place(store: str, schema: str, table: str, column: str) -> bytes:
    """Return the part of a place that all rows of a column share."""
    return b"\x01" + b"".join(_framed(part.encode("utf-8")) for part in (store, schema, table, column))


def row_place(column: bytes, key: Sequence[KeyValue]) -> bytes:
    """Return the place of a row's value."""
    return column + row_part(key)


def row_part(key: Sequence[KeyValue]) -> bytes:
    """Return the part of a place that the columns of a row share; it includes the type, since 1 and '1' differ."""
    if len(key) == 1 and type(key[0]) is int:  # the usual case
        number = b"i%d" % key[0]
        return (LENGTHS[len(number)] if len(number) < len(LENGTHS) else len(number).to_bytes(4, "big")) + number
    return b"".join([_framed(_part(value)) for value in key])


def _part(value: KeyValue) -> bytes:
    if isinstance(value, int):
        return b"i%d" % value
    if isinstance(value, str):
        return b"t" + value.encode("utf-8")
    if isinstance(value, UUID):
        return b"u" + value.bytes
    if isinstance(value, bytes):
        return b"b" + value
    raise TypeError("not a value that a primary key may hold")


def _framed(part: bytes) -> bytes:
    return len(part).to_bytes(4, "big") + part


LENGTHS = [length.to_bytes(4, "big") for length in range(32)]
"""The frames of short parts, such as integers, which have at most 20 characters in PostgreSQL."""


def seal(key: ColumnKey, place: bytes, plaintext: bytes) -> bytes:
    """Return one value in encrypted form."""
    start, cipher = key.encryption_session()
    nonce = os.urandom(_NONCE)
    return start + nonce + cipher.encrypt(nonce, plaintext, start + place)


def unseal(key: ColumnKey, place: bytes, sealed: bytes) -> bytes:
    """Return the plaintext; raises DecryptionFailed."""
    start = sealed[:START]
    try:
        cipher = key.cipher(start[_VERSION:])
        return cipher.decrypt(sealed[START:HEAD], sealed[HEAD:], start + place)
    except (InvalidTag, ValueError):
        raise DecryptionFailed from None


def version_of(sealed: bytes) -> int:
    """Return the version of the column key in a sealed value; raises DecryptionFailed."""
    if len(sealed) < AROUND:
        raise DecryptionFailed
    return int.from_bytes(sealed[:_VERSION], "big")


def tag(key: ColumnKey, column: bytes, plaintext: bytes) -> bytes:
    """Return the tag that equal values of a column share."""
    mac = key.mac(column).copy()
    mac.update(plaintext)
    return mac.finalize()[:_MAC]


def to_ascii(sealed: bytes, equality: bytes | None) -> bytes:
    """Return `to_text` as bytes."""
    start = _TEXT if equality is None else tag_text(equality).encode("ascii")
    return start + binascii.b2a_base64(sealed, newline=False)


def to_text(sealed: bytes, equality: bytes | None) -> str:
    return to_ascii(sealed, equality).decode("ascii")


def tag_text(equality: bytes) -> str:
    """Return the prefix of the text of all equal values."""
    return TEXT_PREFIX[1] + binascii.b2a_base64(equality, newline=False)[:-2].decode("ascii")


def from_text(text: str) -> tuple[bytes, bytes | None]:
    """Return the sealed bytes and the tag. Raises NotEncrypted, and DecryptionFailed for an invalid text."""
    start = text[:8]
    if start == TEXT_PREFIX[0]:
        return _unbase64(text[8:]), None
    if start == TEXT_PREFIX[1]:
        return _unbase64(text[TAG_TEXT:]), _unbase64(text[8:TAG_TEXT] + "==")
    raise NotEncrypted


def to_bytes(sealed: bytes, equality: bytes | None) -> bytes:
    return BYTES_PREFIX[0] + sealed if equality is None else tag_bytes(equality) + sealed


def tag_bytes(equality: bytes) -> bytes:
    return BYTES_PREFIX[1] + equality


def from_bytes(stored: bytes) -> tuple[bytes, bytes | None]:
    """Return the sealed bytes and the tag; raises NotEncrypted."""
    start = stored[:6]
    if start == BYTES_PREFIX[0]:
        return stored[6:], None
    if start == BYTES_PREFIX[1]:
        return stored[TAG_BYTES:], stored[6:TAG_BYTES]
    raise NotEncrypted


def _unbase64(text: str) -> bytes:
    try:
        decoded = binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        raise DecryptionFailed from None
    if len(text) & 3 or not is_canonical_end(text):
        raise DecryptionFailed
    return decoded


def is_canonical_end(text: str) -> bool:
    """Return whether the last character of a base64 text before its padding has no unused bits."""
    if text[-1:] != "=":
        return True
    before = text[-2]
    return before in ONE_BYTE_LESS or (before == "=" and text[-3] in TWO_BYTES_LESS)
