"""The Audit page: all recorded actions of the tenant, searchable, and below them the integrity of the stream.

Values of a record come from external callers. They are drawn by elements that show text literally, never as Markdown.
"""

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from core.tenants.roles import Permission
from dashboard.audit import section, stream, view
from dashboard.components import formatting as words
from dashboard.page_context import PageContext
from dashboard.status.section import draw_header
from database.audit import StreamBounds
from openkcm.errors import AuditBroken

_VERDICT = "audit-verdict"


def draw(context: PageContext) -> None:
    """Draw the page, or a notice for roles without the permission."""
    if not context.may(Permission.VIEW_AUDIT):
        st.title("Audit")
        st.info(
            "Roles that manage keys cannot read the audit stream (separation of duties). Ask an administrator or "
            "an auditor of your organization.",
            title="Access denied",
            icon=":material/visibility_off:",
        )
        return
    with context.database.tenant_tx(context.tenant_id) as tx:
        tenant, ends = tx.tenants.get(), tx.audit.ends()
    if tenant is None:
        st.title("Audit")
    else:
        draw_header(context, tenant, "Audit")
    st.caption(
        "All actions on the keys, services and settings of this tenant, in order. A change or removal of a record "
        "breaks the hash chain."
    )
    if ends.last is None:
        st.header("Records")
        st.info("The first record appears after the first action of this tenant.", title="No records")
    else:
        section.draw_search(context)
    requested, answer = _draw_chain(context, ends)
    if requested:  # last, so that the rest of the page is complete while it runs
        _verify(context, answer)


def _draw_chain(context: PageContext, ends: StreamBounds) -> tuple[bool, DeltaGenerator]:
    """Draw the state of the chain; return whether to verify it, and the placeholder for the result."""
    st.header("Verification")
    status = view.status(ends, stream.signature(context.database, context.tenant_id, ends), context.now())
    with st.container(border=True):
        # As text: the browser needs longer for the code of cards than for the line.
        st.markdown(view.summary(status))
        if status.alarming:
            st.error(
                f"{status.said} {view.BROKEN_ADVICE}", title="Audit stream integrity error", icon=":material/gpp_bad:"
            )
        else:
            st.write(status.said)
        if ends.archived is not None:
            st.caption(
                f"Records 1 to {ends.archived.seq:,} are in signed archive files. Ask the operator of the platform for "
                "them; a download here begins after them and verifies together with them."
            )
        # Drawn only when expanded: the browser code for code blocks is the slowest part of this page.
        hidden = st.expander("Hash of the last record", key="audit-head", on_change="rerun")
        if hidden.open:
            hidden.caption("It covers all records before it: a change of any record changes this hash.")
            hidden.code(status.head, language=None, wrap_lines=True)
        if status.fingerprint:
            key = st.expander("Fingerprint of the signing key", key="audit-key", on_change="rerun")
            if key.open:
                key.caption(
                    "SHA-256 of the public key that verified the signature. Compare it with the fingerprint that "
                    "you stored earlier. A download is verified offline with that key (`openkcm audit verify`)."
                )
                key.code(status.fingerprint, language=None, wrap_lines=True)
        requested = st.button(
            "Verify entire stream",
            key="audit-verify",
            icon=":material/verified:",
            help="Reads every record and recomputes the hash chain. Changes nothing; stops when you leave the page.",
        )
        answer = st.empty()
        verdict = st.session_state.get(_VERDICT)
        if verdict is not None and verdict[0] == context.tenant_id and not requested:
            _draw_verdict(answer, intact=verdict[1], text=verdict[2])
    return requested, answer


def _verify(context: PageContext, answer: DeltaGenerator) -> None:
    st.session_state.pop(_VERDICT, None)
    bar = answer.progress(0.0, "Reading stream…")

    def progressed(done: int, of: int) -> None:
        bar.progress(done / of, f"{done:,} of {of:,} records verified…")

    try:
        verified = stream.verify(context.database, context.tenant_id, progressed)
    except AuditBroken as broken:
        intact, text = False, f"{words.at(context.now())}: {broken.message}. {view.BROKEN_ADVICE}"
    else:
        intact, text = True, view.verdict(verified.records, verified.signed, verified.seconds, context.now())
    st.session_state[_VERDICT] = (context.tenant_id, intact, text)
    _draw_verdict(answer, intact=intact, text=text)


def _draw_verdict(answer: DeltaGenerator, *, intact: bool, text: str) -> None:
    if intact:
        answer.success(text, title="Stream verified", icon=":material/verified:")
    else:
        answer.error(text, title="Verification failed", icon=":material/gpp_bad:")
