"""What is shown of a tenant that has left: that it has, what was destroyed, and the certificate of it."""

import streamlit as st

from dashboard.pages.notices import admitted, draw_unknown
from dashboard.places import of_tenant
from dashboard.seat import Seat
from dashboard.views import leaving

CERTIFICATE = "destruction-certificate.json"
"""The certificate's part of the address."""


def draw(seat: Seat) -> None:
    if not admitted(seat):
        return
    with seat.database.tenant_tx(seat.tenant_id) as tx:
        left, kept, doomed = tx.leaving.get(), tx.leaving.certificate(), tx.leaving.doomed()
    if left is None:
        draw_unknown()
        return
    st.title("Your tenant has left", anchor=False)
    st.caption(f"Tenant `{seat.tenant_id}`. Its id is never used again.")
    st.markdown("\n\n".join(leaving.farewell(left, kept, seat.now())))
    if kept is not None:
        st.header("The certificate", anchor="certificate")
        st.markdown(
            f"It says what was destroyed and when ({leaving.destroyed(doomed)}), by fingerprints, and what is left "
            "where until when. It verifies without us: `openkcm audit verify FILE`, with the platform's public key."
        )
        st.link_button(
            "Download the certificate",
            f"{of_tenant(seat.tenant_id).root}/{CERTIFICATE}",
            key="left.certificate",
            icon=":material/download:",
        )
    with st.expander("What is kept, and why", icon=":material/inventory_2:"):
        st.markdown("\n".join(f"- {line}" for line in leaving.stays()))
