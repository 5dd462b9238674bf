"""The cards of the root key and the tenant key on the page Keys; both refresh automatically."""

from collections.abc import Sequence
from dataclasses import dataclass

import streamlit as st

from core.errors.tenants import TenantUnknown
from core.tenants.policy import TenantPolicy
from core.tenants.roles import Permission
from core.tenants.status import verdict
from dashboard.components.formatting import code
from dashboard.components.fragments import ICONS, draw_notices, polling_fragment
from dashboard.components.key_map import mode
from dashboard.components.tenant_status import Severity, TenantStatusView
from dashboard.keys import view as keys
from dashboard.page_context import PageContext
from dashboard.root_keys import dialog as root_key_dialog
from dashboard.root_keys import view as root_key
from dashboard.root_keys.view import Health
from dashboard.rotation import dialog as rotation_dialog
from dashboard.rotation import view as rotation
from database.keys import KeyRow, KeyVersionRow
from database.platform.status import Measurement, measure
from database.root_keys import RootKeyChangeRow, RootKeyVersionsRow
from database.rotation import RotationRow
from database.tenants import TenantRow


@dataclass(frozen=True, slots=True)
class _Rows:
    measured: Measurement
    changes: Sequence[RootKeyChangeRow]
    versions: RootKeyVersionsRow | None
    service_keys: Sequence[KeyVersionRow]
    rotations: Sequence[RotationRow]
    policy: TenantPolicy
    tenant_keys: Sequence[KeyRow]


@polling_fragment
def draw(context: PageContext, drawn: TenantRow, rotated: RotationRow | None) -> None:
    """Draw both cards, from stored data, so that a reloaded page shows a running rotation.

    Redraw the whole page when the provider differs from the `drawn` one, or a rotation has started or ended since
    `rotated`.
    """
    rows = _read(context)
    newest = rows.rotations[0] if rows.rotations else None
    if rows.measured.tenant.root_key_mode != drawn.root_key_mode or mark(newest) != mark(rotated):
        st.rerun()
    root, tenant = st.columns(2, gap="medium")
    with root.container(border=True, height="stretch", gap="xsmall"):
        _draw_root_key(context, rows)
    with tenant.container(border=True, height="stretch", gap="xsmall"):
        _draw_tenant_key(context, rows, newest)


def _read(context: PageContext) -> _Rows:
    with context.database.tenant_tx(context.tenant_id) as tx:
        measured = measure(tx, context.root_key_shards, context.now())
        if measured is None:
            raise TenantUnknown
        return _Rows(
            measured,
            tx.root_keys.changes(5),
            tx.root_keys.versions(),
            tx.services.keys(),
            tx.rotations.all(1),
            tx.policy.get(),
            tx.keys.all(),
        )


def _draw_root_key(context: PageContext, rows: _Rows) -> None:
    tenant, key = rows.measured.tenant, rows.measured.root_key
    name, place = root_key.where(tenant, key)
    st.header("Root key", anchor="root-key")
    st.markdown(f":material/key: **{mode(tenant.root_key_mode)}**")
    st.markdown(code(name))
    st.caption(f"{place} {root_key.versions(rows.versions)}")
    if how := root_key.health(tenant, key, context.grace_seconds, context.now()):
        _draw_health(root_key.measured(how, verdict(rows.measured.facts)))
    newest = rows.changes[0] if rows.changes else None
    if running := root_key.progress(newest):
        st.progress(running.share, text=running.words)
        st.caption("The former root key is in effect until all service keys are switched together.")
    wraps = keys.wrapped_keys(tenant, rows.service_keys)
    st.caption(f"{wraps} {root_key.WITHDRAWAL[tenant.root_key_mode]}")
    st.caption(root_key.last_change(rows.changes, context.now()))
    _draw_offer(context, tenant, root_key.why_no_change(tenant, newest))


def _draw_health(how: Health) -> None:
    st.markdown(f"{ICONS[how.tone]} **Health:** {how.title}")
    for words in (how.since, how.meanwhile, how.advice):
        if words:
            st.caption(words)


def _draw_offer(context: PageContext, tenant: TenantRow, why_not: str) -> None:
    if not context.may(Permission.MANAGE_KEYS):
        st.caption("Read-only for your role. A key administrator of your organization can change the root key.")
        return
    if why_not:
        st.caption(why_not)
        return
    if note := root_key.only_credentials(tenant):
        st.caption(note)
    if st.button("Change root key…", icon=":material/swap_horiz:", key="keys.root-key"):
        root_key_dialog.open_change()
        st.rerun()


def _draw_tenant_key(context: PageContext, rows: _Rows, newest: RotationRow | None) -> None:
    now, key = context.now(), rotation.l2_of(context.tenant_id, rows.tenant_keys)
    st.header("Tenant key", anchor="tenant-key")
    if key is None:
        st.caption("Created during provisioning.")
        return
    texts = rotation.tenant_key(key, rows.policy, now)
    st.markdown(f":material/key: **{code(key.name)}**")
    st.caption(f"{texts.version} {texts.older} It never leaves the key server.")
    st.progress(texts.share, text=texts.due)
    if running := rotation.progress(newest):
        st.progress(running.share, text=running.words)
        st.caption("Continues automatically, also when you close this page. All keys work.")
    elif how := rotation.ended(rows.rotations, now):
        _draw_ended(how)
    else:
        st.caption("Never rotated.")
    if context.may(Permission.MANAGE_KEYS):
        _draw_buttons(rotation.why_not(rows.measured.tenant, newest))
    else:
        st.caption("Read-only for your role. A key administrator of your organization can rotate keys.")


def _draw_ended(how: TenantStatusView) -> None:
    """Draw the result of the last rotation; only a failed one takes the space of a notice."""
    if how.tone is Severity.GOOD:
        st.caption(f"{ICONS[how.tone]} {how.title}: {how.meaning}")
    else:
        draw_notices([how])


def mark(newest: RotationRow | None) -> tuple[int, str] | None:
    """Return a value that changes when a rotation starts or ends."""
    return None if newest is None else (newest.number, newest.state)


def _draw_buttons(why_not: str) -> None:
    with st.container(horizontal=True):
        for key, label, icon, wanted in (
            ("tenant-key", "Rotate tenant key…", "key", rotation.TENANT_KEY),
            ("everything", "Rotate all keys…", "autorenew", rotation.EVERYTHING),
            ("compromised", "Replace compromised keys…", "gpp_maybe", rotation.compromised(rotation.EVERYTHING)),
        ):
            rotation_dialog.draw_button(f"rotation.{key}", label, icon, wanted, why_not)
    if why_not:
        st.caption(why_not)
