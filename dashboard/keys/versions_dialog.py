"""The side dialog of one service key: all versions, and the newest audit records about the key."""

import time

import streamlit as st

from core.audit import AuditFilter
from core.keys.rotation import KeyState
from core.tenants.roles import Permission
from dashboard.audit import stream
from dashboard.audit import view as audit
from dashboard.components.fragments import guarded_fragment
from dashboard.page_context import PageContext
from dashboard.rotation import view as rotation
from database.audit import FoundRecord
from openkcm.contract.audit_events import AuditName, fields_of

_OPEN = "keys.versions-of"
_EVENTS = frozenset(
    {
        AuditName.SERVICE_KEY_CREATED,
        AuditName.SERVICE_KEY_ROTATED,
        AuditName.SERVICE_KEY_COMPROMISED,
        AuditName.SERVICE_KEY_DESTROYED,
        AuditName.ROTATE_REQUESTED,
        AuditName.RETIRE_REQUESTED,
    }
)
_MOST, _SECONDS = 20, 0.5


def open_versions(service: str) -> None:
    st.session_state[_OPEN] = service
    st.rerun()


def draw_open(context: PageContext) -> None:
    """Draw the dialog if it is open."""
    if service := st.session_state.get(_OPEN):
        st.dialog(f"Versions and history: {service}", width="large", position="right", on_dismiss=_forget)(
            guarded_fragment(_draw)
        )(context, service)


def _forget() -> None:
    st.session_state.pop(_OPEN, None)


def _draw(context: PageContext, service: str) -> None:
    with context.database.tenant_tx(context.tenant_id) as tx:
        every = tx.services.keys()
        objects = {use.version: use.objects for use in tx.objects.versions() if use.service == service}
    keys = [key for key in every if key.service == service]
    st.subheader("Versions", anchor=False)
    st.dataframe(
        [
            {
                "Version": key.version,
                "State": rotation.STATE_NAMES[key.state],
                "Created": key.created_at,
                "Active since": key.activated_at,
                "Encrypted until": key.deactivated_at,
                "Destroyed": key.destroyed_at,
                "Last unwrapped": key.last_opened_at,
                "KMIP objects": objects.get(key.version, 0),
                "Wrapped by tenant key version": None if key.state is KeyState.DESTROYED else key.l2_version,
                "and by root key": "" if key.state is KeyState.DESTROYED else key.root_key,
            }
            for key in sorted(keys, key=lambda key: -key.version)
        ],
        column_config={
            name: st.column_config.DatetimeColumn(format="D MMM YYYY, HH:mm", timezone="UTC")
            for name in ("Created", "Active since", "Encrypted until", "Destroyed", "Last unwrapped")
        },
        hide_index=True,
        placeholder="-",
        key="keys.versions-table",
        alt=f"Versions of the key of {service}, newest first",
    )
    st.caption("Times in UTC. A version that decrypts only cannot encrypt again.")
    if context.may(Permission.VIEW_AUDIT):  # separation of duties (core/tenants/roles.py)
        _draw_history(context, service)


def _draw_history(context: PageContext, service: str) -> None:
    st.subheader("History", anchor=False)
    for record in _records(context, service):
        row = audit.row(record)
        words = f"{row.time}: {row.what}, {row.outcome.lower()}, {row.actor}"
        context.navigation.draw_link("audit", words, icon=":material/fact_check:", seq=str(row.seq))
    context.navigation.draw_link("audit", "All audit records of this service", service=service)


def _records(context: PageContext, service: str) -> list[FoundRecord]:
    deadline = time.monotonic() + _SECONDS
    with context.database.tenant_tx(context.tenant_id) as tx:
        every = tx.audit.numbers(AuditFilter())
        found = stream.search(
            tx.audit,
            AuditFilter(names=_EVENTS, subject=service),
            every,
            _MOST,
            newest_first=True,
            expired=lambda: time.monotonic() > deadline,
        ).found
    # The filter matches a part of the name: `ledger` also finds `ledger-archive`.
    return [one for one in found if str(fields_of(one.stored.record).get("subject", "")).split(" ")[0] == service]
