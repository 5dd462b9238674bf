"""Requests of fragments that arrive after their page was left.

A fragment refreshes while a click on a row moves the session to another page. When its request arrives after the move,
Streamlit 1.67 runs it, or skips it, as a run of the page that the browser had named, and the browser then removes
everything that the present page has drawn. Therefore the session ignores these requests; a fragment of a page that was
left has no effect either way.
"""

from streamlit.proto.ClientState_pb2 import ClientState
from streamlit.runtime.app_session import AppSession


def ignore_late_requests() -> None:
    """Let the sessions of this process ignore requests of fragments of another page than the present one."""
    accept = AppSession.request_rerun

    def request_rerun(self: AppSession, client_state: ClientState | None) -> None:
        present = self._pages_manager.current_page_script_hash
        if client_state is None or not client_state.fragment_id or client_state.page_script_hash == present:
            accept(self, client_state)

    AppSession.request_rerun = request_rerun  # type: ignore[method-assign]  # Streamlit has no other place for this
