"""Opens the values of one protected column.

Nearly all values are well and of a session that is known: `rows` opens those in its own loop with `ciphers`. What is
otherwise comes here, where every check is made and said why a value does not open.
"""

from collections.abc import Callable
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hooks import values
from hooks.keys import TAG, CannotOpen, ColumnKeys, Newest
from hooks.postgresql.catalogue import Column, Table
from hooks.postgresql.errors import PlainValueFound, ProtectionUnusable, ValueRefused, unavailable
from hooks.values import BYTES_PREFIX, HEAD, START

UNUSUAL = (KeyError, ValueError, TypeError, InvalidTag, CannotOpen)
"""What becomes of a value that is not of the usual kind where it is taken for one."""

_BYTES = BYTES_PREFIX[0]
_SESSIONS_KEPT = 4096


class Opener:
    """Safe to use from several threads."""

    __slots__ = ("_column", "_keys", "_name", "_tags", "_where", "is_text", "lent", "place")

    def __init__(self, keys: ColumnKeys, table: Table, column: Column) -> None:
        self._keys, self._column = keys, column
        self._name = (table.schema, table.name, column.name)
        self._where = f"{table.full_name}.{column.name}"
        self._tags = Newest(keys, self._name, TAG)
        self.place, self.is_text = column.place, column.kind == "text"
        self.lent: tuple[float, dict[bytes, AESGCM], int] = (float("-inf"), {}, -1)
        """Until when it may be used, what opens a value by how it starts, and `ended` of the keys; replaced whole."""

    def renew(self, ended: int) -> None:
        """Ask for keys again: they may not be used any more without."""
        self.lent = (float("inf"), {}, ended)

    def tag(self, plain: bytes) -> bytes:
        """Return what values have in common that equal this one. Raises CannotOpen."""
        return values.tag(self._tags.key(self._keys.clock()), self.place, plain)

    def opened_bytes(self, stored: Any, part: bytes | None) -> bytes | None:
        """Return a value of a bytea column, None when it is plain and may be; raises as `looked_at`."""
        try:
            if part is not None and stored[:6] == _BYTES:
                start, nonce = stored[6 : 6 + START], stored[6 + START : 6 + HEAD]
                return self.lent[1][start].decrypt(nonce, stored[6 + HEAD :], start + self.place + part)
        except UNUSUAL:
            pass
        return self.looked_at(stored, part)

    def looked_at(self, stored: Any, part: bytes | None) -> bytes | None:
        """Open one value of the row with this key, with every check; None when it is plain and may be.

        Raises: PlainValueFound, ValueRefused, KeysUnavailable, ProtectionUnusable.
        """
        if type(stored) is not (str if self.is_text else bytes):  # a subclass may be anything
            raise ProtectionUnusable(
                f"{self._where} is loaded by something of the application's own",
                "remove the loader for this column's type",
            )
        try:
            read: Callable[[Any], tuple[Any, Any]] = values.from_text if self.is_text else values.from_bytes
            return self._unsealed(*read(stored), part)
        except values.NotOurs:
            if self._column.plain_allowed:
                return None
            raise PlainValueFound(f"{self._where} holds a value that is not encrypted") from None
        except values.DoesNotOpen:
            raise ValueRefused(
                f"a value of {self._where} does not open in its row: it was altered, moved, or encrypted by another"
                " service"
            ) from None
        except CannotOpen as failed:
            raise unavailable(failed) from None

    def _unsealed(self, sealed: bytes, equality: bytes | None, part: bytes | None) -> bytes:
        before = self.lent
        lent = self._keys.lend_version(self._name, values.version_of(sealed))
        if lent is None or part is None:
            raise values.DoesNotOpen
        key, until = lent
        plain = values.unseal(key, self.place + part, sealed)
        if equality is not None and equality != self.tag(plain):
            raise values.DoesNotOpen
        self._learn(before, sealed[:START], key.cipher(sealed[START - 16 : START]), until)
        return plain

    def _learn(self, lent: tuple[float, dict[bytes, AESGCM], int], start: bytes, cipher: AESGCM, until: float) -> None:
        """Keep what opens values among what was lent before it was asked for, which a refusal since then has ended."""
        usable, ciphers, ended = lent
        if until < usable:  # a key that must go earlier than those that are known: they go with it
            ciphers = dict(ciphers)
            self.lent = (until, ciphers, ended)
        if len(ciphers) >= _SESSIONS_KEPT:
            ciphers.clear()
        ciphers[start] = cipher
