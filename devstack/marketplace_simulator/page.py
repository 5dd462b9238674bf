"""A simulated platform marketplace for development: the button sends a real signed event to the real endpoint.

The page has no signed-in user, no `PageContext` and no database. It shows only what the endpoint reports to the
marketplace about an account.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import streamlit as st

from core.errors.tenants import TenantUnknown
from dashboard.components.formatting import said
from devstack.marketplace_simulator import view
from devstack.marketplace_simulator.client import MarketplaceClient
from openkcm.errors import OpenKcmError

_POLL_SECONDS = 0.5
_ANOTHER = "Another account"
_REFUSED = "marketplace-refused"
_CLICKED = "marketplace-clicked"


@dataclass(frozen=True, slots=True)
class Market:
    """The client and settings of the simulated marketplace; `regions` are those that offer OpenKCM."""

    sender: MarketplaceClient
    regions: tuple[str, ...]
    provisioning_slo_seconds: float
    now: Callable[[], datetime]


def draw(market: Market) -> None:
    """Draw the marketplace with its only offer."""
    st.title("Marketplace")
    st.warning(
        "This page simulates your platform's marketplace for a trial of OpenKCM. It is not part of the product,"
        " requires no sign-in, and exists in development only.",
        title="Development page",
        icon=":material/construction:",
    )
    account = _draw_account()
    region = market.regions[0]
    if len(market.regions) > 1:
        region = st.selectbox("Region", market.regions, key="marketplace-region", width=240)
    st.header("Security services")
    with st.container(border=True, key="marketplace-offer"):
        st.subheader(view.SERVICE)
        st.markdown("  \n".join(f":green[✓] {detail}" for detail in view.DETAILS))
        if account is not None:
            _draw_status(market, account, region)


def _draw_account() -> view.Account | None:
    """Return the selected account; None while the input is incomplete or invalid."""
    labels = {account.label: account for account in view.ACCOUNTS}
    chosen = st.radio("Your account on the platform", [*labels, _ANOTHER], key="marketplace-account")
    if chosen in labels:
        return labels[chosen]
    with st.container(horizontal=True, key="marketplace-another"):
        tenant_id = st.text_input("Account id", placeholder="gamma-corp-1", key="marketplace-id").strip()
        organization = st.text_input("Organization", placeholder="Gamma Corp", key="marketplace-organization").strip()
    if not tenant_id and not organization:
        st.caption("Type an account id and its organization to enable OpenKCM for it.")
        return None
    problem = view.account_problem(tenant_id, organization)
    if problem:
        st.error(f"{problem}.", icon=":material/error:")
        return None
    return view.Account(tenant_id, organization)


def _draw_status(market: Market, account: view.Account, region: str) -> None:
    refused = st.session_state.pop(_REFUSED, None)
    if refused is not None:
        st.error(refused, icon=":material/error:")
    try:
        standing = _read_status(market, account)
    except OpenKcmError as failed:
        st.error(f"OpenKCM cannot be enabled now. {said(failed)}", icon=":material/cloud_off:")
        return
    match standing.stage:
        case view.Stage.OFFERED:
            _draw_enable_button(market, account, region, "Enable OpenKCM")
        case view.Stage.PREPARING:
            st.fragment(_draw_progress, run_every=_POLL_SECONDS)(market, account)
        case view.Stage.ENABLED:
            # The tenant is often ready before the first response was read.
            if st.session_state.get(_CLICKED) == account.tenant_id:
                st.text(view.confirmation(standing.organization))
            _draw_enabled(standing)
        case view.Stage.FAILED:
            _draw_unavailable(standing)
            st.caption("No data is lost. Enabling OpenKCM again retries the provisioning; so can an operator.")
            _draw_enable_button(market, account, region, "Enable OpenKCM again")
        case view.Stage.LEFT:
            _draw_unavailable(standing)
            st.caption("To use OpenKCM again, enable it for another account.")


def _draw_enable_button(market: Market, account: view.Account, region: str, label: str) -> None:
    st.caption(f"For account {account.tenant_id} in {region}. The target is a ready environment within 3 minutes.")
    if st.button(label, type="primary", icon=":material/bolt:", key=f"marketplace-enable-{account.tenant_id}"):
        try:
            market.sender.enable(account.tenant_id, account.organization, region)
        except OpenKcmError as failed:
            st.session_state[_REFUSED] = f"OpenKCM was not enabled: {said(failed)}"
        else:
            st.session_state[_CLICKED] = account.tenant_id
        st.rerun()


def _draw_progress(market: Market, account: view.Account) -> None:
    """Draw the progress of the provisioning repeatedly until it ends."""
    try:
        standing = _read_status(market, account)
    except OpenKcmError as failed:
        st.warning(
            f"The progress is not available now; provisioning continues automatically. {said(failed)}",
            icon=":material/cloud_off:",
        )
        return
    if standing.stage is not view.Stage.PREPARING:
        st.rerun()
    st.text(view.confirmation(standing.organization))
    st.progress(standing.done, text=standing.detail)
    for step in standing.steps:
        st.markdown(f"{step.icon} {step.text}")
    if standing.late:
        st.warning("Provisioning takes longer than 3 minutes.", icon=":material/hourglass_bottom:")
        st.text(standing.late)


def _draw_enabled(standing: view.Standing) -> None:
    st.success("Enabled: no further action is required.", icon=":material/check_circle:")
    st.text(standing.title)
    st.caption(standing.detail)
    if standing.message:
        st.text(standing.message)
    st.link_button(
        "Open the CMK dashboard",
        standing.dashboard_url,
        type="primary",
        icon=":material/open_in_new:",
        key="marketplace-dashboard",
    )


def _draw_unavailable(standing: view.Standing) -> None:
    st.error("OpenKCM is not available for this account now.", icon=":material/error:")
    st.text(standing.title)
    st.caption(standing.detail)
    if standing.message:
        st.text(standing.message)


def _read_status(market: Market, account: view.Account) -> view.Standing:
    status: dict[str, Any] | None
    try:
        status = market.sender.status(account.tenant_id)
    except OpenKcmError as refused:
        if refused.code != TenantUnknown.code:
            raise
        status = None
    return view.standing(status, market.provisioning_slo_seconds, market.now())
