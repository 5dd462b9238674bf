"""Requests of fragments that arrive after their page was left.

Streamlit 1.67 runs such a fragment, or skips it, as a run of the page that the browser had named. The browser then
removes everything that the present page has drawn. If the run of the present page has not begun yet, Streamlit runs
the page before in its place. Therefore the session ignores these requests; a widget of a page that was left has no
effect either way.
"""

from streamlit.proto.ClientState_pb2 import ClientState
from streamlit.runtime.app_session import AppSession


def ignore_late_requests() -> None:
    """Let the sessions of this process ignore requests of fragments of another page than the present one."""
    accept = AppSession.request_rerun

    def request_rerun(self: AppSession, client_state: ClientState | None) -> None:
        pages = self._pages_manager
        if client_state is not None:
            if not client_state.fragment_id:
                # The run sets it as well, but only once its thread has begun.
                pages.set_current_page_script_hash(client_state.page_script_hash)
            elif client_state.page_script_hash != pages.current_page_script_hash:
                return
        accept(self, client_state)

    AppSession.request_rerun = request_rerun  # type: ignore[method-assign]  # Streamlit has no other place for this
