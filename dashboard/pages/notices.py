"""What several pages say alike: a state that is not the normal one, a refusal, and a page that is not for somebody."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

import streamlit as st

from core.tenants.roles import Permission
from dashboard.seat import Seat
from dashboard.views.standing import Standing, Tone, sentence
from openkcm.errors import OpenKcmError

ICONS: Mapping[Tone, str] = MappingProxyType(
    {
        Tone.GOOD: ":material/check_circle:",
        Tone.WORKING: ":material/pending:",
        Tone.WARNING: ":material/warning:",
        Tone.BAD: ":material/error:",
    }
)
_BOXES = MappingProxyType({Tone.GOOD: st.success, Tone.WORKING: st.info, Tone.WARNING: st.warning, Tone.BAD: st.error})


def draw_notices(said: Iterable[Standing]) -> None:
    """Say what does not stand as it should, what that means and what to do about it."""
    for one in said:
        words = " ".join(part for part in (one.meaning, one.advice) if part)
        _BOXES[one.tone](words, title=one.title, icon=ICONS[one.tone])


def draw_refusal(refused: OpenKcmError, title: str, still: str = "") -> None:
    """Say what was not done, why, what to do next, and what is still so."""
    words = " ".join(sentence(part) for part in (refused.message, refused.hint) if part)
    st.error(f"{words} {still}".strip(), title=title, icon=ICONS[Tone.BAD])


def admitted(seat: Seat) -> bool:
    """Return whether the person may look at this tenant's pages; says so where not."""
    if seat.may(Permission.VIEW):
        return True
    st.error(
        "Your role does not include looking at this tenant. Ask your organization's administrator for one that does.",
        title="This page is not for your role",
        icon=ICONS[Tone.BAD],
    )
    return False


def draw_unknown() -> None:
    """Say that there is nothing here yet, and how that changes."""
    st.title("Encryption Dashboard")
    st.info(
        "Enable OpenKCM for your organization in the marketplace. This page then follows the provisioning and shows "
        "your encryption environment.",
        title="OpenKCM is not enabled for your organization yet",
        icon=":material/info:",
    )
