"""The top of each page of a tenant: status strip, notices and progress of a lock, title, emergency controls.

Strip and notices are one fragment, which measures again every two seconds: an open page shows a fault within seconds.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta

import streamlit as st

from core.audit import AuditFilter
from core.errors.platform import DatabaseUnavailable
from core.tenants.lifecycle import State
from core.tenants.locks import LockReason
from core.tenants.status import verdict
from dashboard.approvals import view as approvals
from dashboard.components.fragments import REFRESH_SECONDS, draw_notices
from dashboard.components.local_time import shown_time
from dashboard.components.tenant_status import Severity, TenantStatusView
from dashboard.offboarding import section as offboarding_section
from dashboard.page_context import PageContext
from dashboard.rotation import view as rotation
from dashboard.status import badges
from dashboard.status.badges import Badge
from dashboard.status.view import notices
from dashboard.tenants import section as tenant_section
from dashboard.tenants.lock_progress import LockedBy, LockProgress, lock_progress
from database.connection.transaction import TenantTransaction
from database.platform.processes import CALL_SECONDS
from database.platform.status import Measurement, measure
from database.tenants import TenantRow
from openkcm.contract.audit_events import AuditName, fields_of

_AT, _LOCKED_BY, _MARKED = "status.at", "status.locked-by", "status.marked"
_MARK_EACH = timedelta(seconds=30)
_SEARCHED = 50_000
"""The newest audit records among which the lock is searched, by hours that contain one."""
_USES = timedelta(hours=24)


def draw_header(context: PageContext, drawn: TenantRow, title: str) -> None:
    """Draw the top of a page; `drawn` is the tenant that the page shows."""
    _draw_status(context, drawn)
    offboarding_section.draw_restoring(context)
    with st.container(horizontal=True, vertical_alignment="center", key="header"):
        st.title(title, anchor=False, width="stretch")
        with st.container(horizontal=True, width="content"):
            tenant_section.draw_controls(context, drawn)
    tenant_section.draw_open(context, drawn)


@st.fragment(run_every=REFRESH_SECONDS)
def _draw_status(context: PageContext, drawn: TenantRow) -> None:
    """Measure and draw; redraw the whole page when the tenant has changed since it was `drawn`."""
    try:
        if context.left():
            st.rerun()
        _draw_measured(context, drawn)
    except DatabaseUnavailable:
        _draw_unmeasured(context)


def _draw_measured(context: PageContext, drawn: TenantRow) -> None:
    now = context.now()
    with context.database.tenant_tx(context.tenant_id, call_seconds=CALL_SECONDS) as tx:
        measured = measure(tx, context.root_key_shards, now)
        if measured is not None and measured.root_key is not None:
            _mark_viewed(tx, now)
        left, newest = tx.leaving.get(), next(iter(tx.rotations.all(1)), None)
        locked = _read_lock(context, tx, measured) if measured and measured.tenant.state is State.LOCKED else None
    if measured is None:
        return
    tenant = measured.tenant
    if (tenant.state, tenant.locks) != (drawn.state, drawn.locks):
        st.rerun()
    found = verdict(measured.facts)
    st.session_state[_AT] = now
    _draw_strip(badges.strip(found, shown_time(now, now)))
    draw_notices((*notices(tenant, measured.root_key, context.grace_seconds, now, left), *badges.notices(found)))
    draw_notices(rotation.notice(newest, tenant, now))
    if asked := approvals.notice(measured.waiting, context.person, now):
        draw_notices(asked)
        context.navigation.draw_link("approvals", "Review requests", icon=":material/group:")
    if locked is not None:
        _draw_lock(locked)
    offboarding_section.draw_restore_button(context, left)


def _mark_viewed(tx: TenantTransaction, now: datetime) -> None:
    """Have the root key checked every second while the page is open: its loss is shown within seconds."""
    if now >= st.session_state.get(_MARKED, now - _MARK_EACH) + _MARK_EACH:
        tx.root_keys.mark_viewed()
        st.session_state[_MARKED] = now


def _draw_unmeasured(context: PageContext) -> None:
    now = context.now()
    since = shown_time(st.session_state.setdefault(_AT, now), now)
    _draw_strip(badges.not_measured(since))
    draw_notices(
        [
            TenantStatusView(
                "Database",
                "Status not available",
                Severity.BAD,
                f"The platform's database does not respond. This page shows data of {since}.",
                "Nothing can be changed now, and no change was lost. The status refreshes automatically.",
            )
        ]
    )


def _draw_strip(shown: Iterable[Badge]) -> None:
    with st.container(key="status-strip"):
        st.markdown(" ".join(one.markdown for one in shown))


def _read_lock(context: PageContext, tx: TenantTransaction, measured: Measurement) -> LockProgress:
    change, uses = tx.tenants.last_change(), tx.usage.last_uses(context.now() - _USES)
    known: tuple[int | None, LockedBy | None] | None = st.session_state.get(_LOCKED_BY)
    if known is None or known[0] != change or known[1] is None:
        by_a_person = LockReason.MANUAL in measured.tenant.locks
        st.session_state[_LOCKED_BY] = known = (change, _locked_by(tx) if by_a_person else None)
    return lock_progress(change, measured.processes, uses, known[1])


def _locked_by(tx: TenantTransaction) -> LockedBy | None:
    """Return the user whose request locked the tenant; None if no recent record says so, as after an approval.

    A request before the last unlock does not count: that lock is over.
    """
    wanted = AuditFilter(
        names=frozenset({AuditName.LOCK_REQUESTED, AuditName.TENANT_UNLOCKED}), outcomes=frozenset({"success"})
    )
    every = tx.audit.numbers(AuditFilter())
    recent = range(max(every.start, every.stop - _SEARCHED), every.stop)
    for part in reversed(tx.audit.parts(wanted, recent)):
        for one in tx.audit.found(wanted, part, 1, newest_first=True):
            fields = fields_of(one.stored.record)
            if fields["name"] == AuditName.TENANT_UNLOCKED:
                return None
            return LockedBy(str(fields["actor"]), datetime.fromisoformat(str(fields["time"])))
    return None


def _draw_lock(made: LockProgress) -> None:
    with st.container(border=True, key="lock-progress", gap="small"):
        icon = ":material/lock:" if made.is_closed else ":material/pending:"
        st.markdown(f"{icon} **{made.title}**  \n{made.words}")
        if made.processes:
            st.markdown(" ".join(_process_badge(name, state) for name, state in made.processes))
        if made.services:
            st.dataframe(
                [dict(row) for row in made.services],
                hide_index=True,
                height=min(38 + 35 * len(made.services), 213),
                key="lock-services",
                alt="Access of each service, with its last answered and last rejected request",
            )


def _process_badge(name: str, state: str) -> str:
    color = {"Closed": "blue", "Open": "red"}.get(state, "gray")
    return f":{color}-badge[{name}: {state.lower()}]"
