"""Messages of the browser that reach the dashboard late, as on a slow network or from a busy browser."""

import re
from collections.abc import Callable

from playwright.sync_api import Page, WebSocketRoute
from streamlit.proto.BackMsg_pb2 import BackMsg


class LateMessages:
    """The connection of a page, which can hold back requests of fragments; to be created before the page is opened."""

    def __init__(self, page: Page) -> None:
        self.held: list[bytes] = []
        self.refreshes = 0
        """The number of requests of refreshing fragments that were not held back."""
        self._hold = False
        self._sockets: list[WebSocketRoute] = []
        page.route_web_socket(re.compile("/_stcore/stream"), self._connect)

    def hold(self) -> None:
        """Hold back the requests of refreshing fragments from now on."""
        self._hold = True

    def release(self) -> None:
        """Send what was held back."""
        self._hold, held, self.held = False, self.held, []
        for message in held:
            self._sockets[-1].send(message)

    def _connect(self, browser: WebSocketRoute) -> None:
        server = browser.connect_to_server()
        self._sockets.append(server)
        browser.on_message(self._sending(server.send))

    def _sending(self, send: Callable[[bytes], None]) -> Callable[[str | bytes], None]:
        def sent(message: str | bytes) -> None:
            assert isinstance(message, bytes)
            if BackMsg.FromString(message).rerun_script.is_auto_rerun:
                if self._hold:
                    self.held.append(message)
                    return
                self.refreshes += 1
            send(message)

        return sent
