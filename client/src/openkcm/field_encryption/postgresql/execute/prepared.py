"""A prepared statement of one database: its writer, the readers of its results, and its usage counter."""

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
    """Replaces psycopg's query: the same attributes, and the prepared rewrite."""

    __slots__ = ("formats", "params", "query", "reads", "timed", "types", "work")

    def __init__(  # noqa: PLR0913 - the attributes of psycopg's query
        self, work: "PreparedRewrite", query: bytes, params: Any, types: Any, formats: Any, *, timed: bool
    ) -> None:
        self.work, self.timed, self.reads = work, timed, work.plan.reads
        self.query, self.params, self.types, self.formats = query, params, types, formats


class PreparedRewrite:
    """Thread-safe."""

    def __init__(
        self, plan: Plan, keys: ColumnKeys, decryptors: Callable[..., ColumnDecryptor], uses: UsageReporter
    ) -> None:
        self.plan, self.uses = plan, uses
        self.passes = plan.passes and not plan.declares
        """Only the result is protected, so that the statement needs no preparation."""
        self.counter = uses.counter([place(Store.POSTGRESQL, *name) for name in plan.columns])
        self._keys, self._decryptors = keys, decryptors
        self._writer = Writer(plan, keys, self.counter)
        self._readers: dict[int, RowReader] = {}

    def rewritten(self, query: Any, made: Sequence[KeyValue], arrays: Arrays, *, timed: bool) -> Rewritten:
        """Return the query to send; `timed` says that the request is counted.

        Raises: KeysUnavailable, ProtectionUnusable.
        """
        if self.plan.passes:
            return Rewritten(self, self.plan.query, query.params, query.types, query.formats, timed=timed)
        return Rewritten(self, *self._writer.written(query, made, arrays), timed=timed)

    def counted(self, spent: int, lasted: int | None) -> None:
        """Count the nanoseconds that writing the statement took, and a request by its total time if it has ended."""
        counter = self.counter
        counter.nanoseconds += spent
        if lasted is not None:
            counter.requests += 1
            counter.request_nanoseconds += lasted
            if not self.uses.awake:
                self.uses.wake()

    def made(self, take: Callable[[str], int]) -> list[KeyValue]:
        """Return the primary key values that the plan generates; `take` returns the next value of a sequence."""
        return [
            take(one.column.sequence) if one.column.made_by_database == "sequence" else uuid4()
            for one in self.plan.made
        ]

    def reader(self, result: Any) -> RowReader:
        """Return the reader of a result's rows; raises StatementRefused for unexpected columns."""
        found = self._readers.get(result.nfields)
        if found is None:
            found = self._readers[result.nfields] = RowReader(
                self.plan, result, self._keys, self._decryptors, self.counter, self.uses
            )
        return found
