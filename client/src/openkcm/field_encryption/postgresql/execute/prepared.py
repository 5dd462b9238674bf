"""A statement of one database, understood and made ready: what writes it, what reads its rows, where it is counted."""

from collections.abc import Callable, Sequence
from typing import Any
from uuid import uuid4

from openkcm.contract.protected_fields import Store
from openkcm.field_encryption.key_cache import ColumnKeys
from openkcm.field_encryption.postgresql.execute.bind import Arrays, Writer
from openkcm.field_encryption.postgresql.execute.rows import ColumnDecryptor, RowReader
from openkcm.field_encryption.postgresql.plan import Plan
from openkcm.field_encryption.usage import UsageReporter, place
from openkcm.field_encryption.value_format import KeyValue


class Rewritten:
    """Stands in for psycopg's query: the same attributes, and the work it belongs to."""

    __slots__ = ("formats", "params", "query", "timed", "types", "work")

    def __init__(self, work: "PreparedRewrite", parts: tuple[bytes, Any, Any, Any], *, timed: bool) -> None:
        self.work, self.timed = work, timed
        self.query, self.params, self.types, self.formats = parts


class PreparedRewrite:
    """Safe to use from several threads."""

    def __init__(
        self, plan: Plan, keys: ColumnKeys, openers: Callable[..., ColumnDecryptor], uses: UsageReporter
    ) -> None:
        self.plan, self.uses = plan, uses
        self.tally = uses.tally([place(Store.POSTGRESQL, *name) for name in plan.columns])
        self._keys, self._openers = keys, openers
        self._writer = Writer(plan, keys, self.tally)
        self._readers: dict[int, RowReader] = {}

    def rewritten(self, query: Any, made: Sequence[KeyValue], arrays: Arrays, *, timed: bool) -> Rewritten:
        """Return what is to be sent; `timed` says that the request is counted.

        Raises: KeysUnavailable, ProtectionUnusable.
        """
        if self.plan.passes:
            parts = self.plan.query, query.params, query.types, query.formats
        else:
            parts = self._writer.written(query, made, arrays)
        return Rewritten(self, parts, timed=timed)

    def spent(self, nanoseconds: int) -> None:
        """Count what writing the statement took."""
        self.tally.nanoseconds += nanoseconds

    def lasted(self, nanoseconds: int) -> None:
        """Count a request that lasted so long as a whole."""
        self.tally.requests += 1
        self.tally.request_nanoseconds += nanoseconds
        if not self.uses.awake:
            self.uses.wake()

    def made(self, take: Callable[[str], int]) -> list[KeyValue]:
        """Return the primary key values that the plan makes; `take` gives the next of a sequence."""
        return [
            take(one.column.sequence) if one.column.made_by_database == "sequence" else uuid4()
            for one in self.plan.made
        ]

    def reader(self, result: Any) -> RowReader:
        """Return what reads a result's rows; raises StatementRefused when it is not as understood."""
        found = self._readers.get(result.nfields)
        if found is None:
            found = self._readers[result.nfields] = RowReader(
                self.plan, result, self._keys, self._openers, self.tally, self.uses
            )
        return found
