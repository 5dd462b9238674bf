"""The platform's marketplace, played for development: one click sends the real signed event to the real endpoint.

Nobody is signed in here, so it shows what the endpoint tells the marketplace of an account and nothing else.

Where the development marketplace page stands. Nobody is signed in there, so it is no `PageContext` and sees no
database.
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

_LOOK_SECONDS = 0.5
_ANOTHER = "Another account"
_REFUSED = "marketplace-refused"
_CLICKED = "marketplace-clicked"


@dataclass(frozen=True, slots=True)
class Market:
    """What the page plays the platform's marketplace with; `regions` are those in which OpenKCM is offered."""

    sender: MarketplaceClient
    regions: tuple[str, ...]
    promise_seconds: float
    now: Callable[[], datetime]


def draw(market: Market) -> None:
    """Draw the marketplace with its one offer."""
    st.title("Marketplace")
    st.warning(
        "This page plays your platform's marketplace so that you can try OpenKCM. It is not part of the product,"
        " asks nobody to sign in, and is there in development only.",
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
            _draw_standing(market, account, region)


def _draw_account() -> view.Account | None:
    """Return whose account it is; None while it cannot be one, which is said."""
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


def _draw_standing(market: Market, account: view.Account, region: str) -> None:
    refused = st.session_state.pop(_REFUSED, None)
    if refused is not None:
        st.error(refused, icon=":material/error:")
    try:
        standing = _look(market, account)
    except OpenKcmError as failed:
        st.error(f"Nothing can be enabled now: {said(failed)}", icon=":material/cloud_off:")
        return
    match standing.stage:
        case view.Stage.OFFERED:
            _draw_click(market, account, region, "Enable OpenKCM")
        case view.Stage.PREPARING:
            st.fragment(_draw_progress, run_every=_LOOK_SECONDS)(market, account)
        case view.Stage.ENABLED:
            # It is often ready before anybody has read what the click was answered with.
            if st.session_state.get(_CLICKED) == account.tenant_id:
                st.text(view.confirmation(standing.organization))
            _draw_enabled(standing)
        case view.Stage.FAILED:
            _draw_said(standing)
            st.caption("Nothing is lost. Enabling again asks for another try, as an operator can too.")
            _draw_click(market, account, region, "Enable OpenKCM again")
        case view.Stage.LEFT:
            _draw_said(standing)
            st.caption("To use OpenKCM again, enable it for another account.")


def _draw_click(market: Market, account: view.Account, region: str, label: str) -> None:
    st.caption(f"For account {account.tenant_id} in {region}. Your environment is promised within three minutes.")
    if st.button(label, type="primary", icon=":material/bolt:", key=f"marketplace-enable-{account.tenant_id}"):
        try:
            market.sender.enable(account.tenant_id, account.organization, region)
        except OpenKcmError as failed:
            st.session_state[_REFUSED] = f"OpenKCM was not enabled: {said(failed)}"
        else:
            st.session_state[_CLICKED] = account.tenant_id
        st.rerun()


def _draw_progress(market: Market, account: view.Account) -> None:
    """Draw how far it is, again and again until it has ended one way or the other."""
    try:
        standing = _look(market, account)
    except OpenKcmError as failed:
        st.warning(
            f"How far it is cannot be seen now; it goes on by itself. {said(failed)}", icon=":material/cloud_off:"
        )
        return
    if standing.stage is not view.Stage.PREPARING:
        st.rerun()
    st.text(view.confirmation(standing.organization))
    st.progress(standing.done, text=standing.detail)
    for step in standing.steps:
        st.markdown(f"{step.icon} {step.text}")
    if standing.late:
        st.warning("It takes longer than promised.", icon=":material/hourglass_bottom:")
        st.text(standing.late)


def _draw_enabled(standing: view.Standing) -> None:
    st.success("Enabled: there is nothing more to click.", icon=":material/check_circle:")
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


def _draw_said(standing: view.Standing) -> None:
    st.error("OpenKCM is not available for this account now.", icon=":material/error:")
    st.text(standing.title)
    st.caption(standing.detail)
    if standing.message:
        st.text(standing.message)


def _look(market: Market, account: view.Account) -> view.Standing:
    status: dict[str, Any] | None
    try:
        status = market.sender.status(account.tenant_id)
    except OpenKcmError as refused:
        if refused.code != TenantUnknown.code:
            raise
        status = None
    return view.standing(status, market.promise_seconds, market.now())
