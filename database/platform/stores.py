"""What the other stores must agree with, of each tenant (core/tenants/store_comparison.py)."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from core.tenants.lifecycle import State
from database.audit import SignedCheckpoint
from database.connection.database import Database
from database.postgres.access import PLATFORM

_PAGE = 500


class StoreStateRow(NamedTuple):
    """A tenant's state, key versions and newest checkpoint; see the SQL function `store_states`."""

    tenant_id: str
    state: State
    busy: bool
    destroying: bool
    l2_version: int | None
    oldest_wrap: int | None
    newest_wrap: int | None
    ca_version: int | None
    payload_key: bool
    seq: int
    checkpoint: SignedCheckpoint | None


class StoreQueries:
    """Queries of the operator and the worker. All raise DatabaseUnavailable and DatabaseRefused."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def states(self) -> Iterator[StoreStateRow]:
        """Yield every tenant, in order of id."""
        page: Sequence[StoreStateRow] = self._page(None, "")
        while page:
            yield from page
            page = self._page(None, page[-1].tenant_id) if len(page) == _PAGE else ()

    def state(self, tenant_id: str) -> StoreStateRow | None:
        """Return one tenant; None if it does not exist."""
        return next(iter(self._page(tenant_id, "")), None)

    def _page(self, wanted: str | None, after: str) -> Sequence[StoreStateRow]:
        with self._database.raw_tx(PLATFORM) as connection:
            rows = connection.execute(
                "select tenant_id, state, busy, destroying, l2_version, oldest_wrap, newest_wrap, ca_version, payload,"
                " seq, signed_seq, signed_hash, signature, signing_key"
                " from okcm.store_states(%s, %s, %s)",
                [wanted, after, _PAGE],
            )
            return [_row(*row) for row in rows]


def _row(tenant_id: str, state: str, *values: Any) -> StoreStateRow:
    *facts, seq, head, signature, key = values
    checkpoint = None if seq is None else SignedCheckpoint(seq, head, signature, key)
    return StoreStateRow(tenant_id, State(state), *[*facts, checkpoint])
