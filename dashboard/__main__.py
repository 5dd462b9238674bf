"""`python -m dashboard`: settings, wiring, serve until SIGTERM."""

import gc
import signal
import sys
import threading
import time
from importlib import import_module
from pathlib import Path

import streamlit as st
import uvicorn
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from streamlit import config
from streamlit.runtime.pages_manager import PagesManager

from config.settings import load_settings
from core.errors.platform import SettingsInvalid
from dashboard import downloads, wiring
from dashboard.auth.middleware import AuthMiddleware
from dashboard.library_logs import hand_over_logs
from dashboard.wiring import Dependencies, Develop
from openkcm.logging import configure_logs

_SCRIPT = Path(__file__).with_name("app.py")
_GRACE_SECONDS = 5
_LOOK_SECONDS = 0.1
_AT_FIRST_USE = ("dashboard.router", "pandas", "pyarrow")
"""What the script imports only when somebody comes; loaded before that, nobody is the one who waits for it."""


def create_app(parts: Dependencies) -> AuthMiddleware:
    """Return the application; what is configured here cannot be changed by a file in the working directory."""
    settings, origin = parts.settings, parts.origin
    redirect_uri = f"{origin}/oauth2callback"
    routes: list[BaseRoute] = [Route("/healthz", _health)]
    if parts.development is not None:
        routes += parts.development.routes
    routes += downloads.routes(parts)
    # Else Streamlit takes the folder `pages` for its own until somebody's script has called `st.navigation`: whoever
    # comes first after a start, by the address of a page, would see a menu of our modules and nothing else.
    PagesManager.uses_pages_directory = False
    app = st.App(
        _SCRIPT,
        routes=routes,
        secrets={
            "auth": {
                "redirect_uri": redirect_uri,
                "cookie_secret": parts.cookie_secret,
                "client_id": settings.oidc_client_id,
                "client_secret": parts.client_secret,
                "server_metadata_url": parts.metadata_url,
                "client_kwargs": {"scope": settings.oidc_scopes},
            }
        },
    )
    if config.get_option("server.enableAgentApi") or config.get_option("browser.gatherUsageStats"):
        raise SettingsInvalid("Streamlit is told to let others in or to tell others", "unset the STREAMLIT_* variables")
    return AuthMiddleware(app, parts.guard, parts.cookie_secret, origin, develops=parts.develops)


async def _health(_request: Request) -> Response:
    return JSONResponse({"status": "ok"})


def _load_when_serving(running: uvicorn.Server) -> None:
    """Load all code once the door is open, and take it out of the garbage collector's hands.

    Not before: it takes a second, in which everything else of a stack is starting on the same processors.
    Streamlit collects after every rerun, also those by which open tabs watch their session: with a hundred thousand
    objects of code to look through that takes longer than most pages.
    """
    while not running.started:
        if running.should_exit:
            return
        time.sleep(_LOOK_SECONDS)
    for name in _AT_FIRST_USE:
        import_module(name)
    gc.collect()
    gc.freeze()


def main(develop: Develop | None = None) -> int:
    """Serve until SIGTERM; return the exit status, 2 when the settings are refused.

    `develop` makes the sign-on and the marketplace page of the development stack.
    """
    try:
        parts = wiring.build(load_settings(), develop)
        wiring.install(parts)
        configure_logs(parts.settings.log_format, "dashboard")
        hand_over_logs()
        app = create_app(parts)
    except SettingsInvalid as refused:
        sys.stderr.write(f"{refused.message}\nhint: {refused.hint}\n")
        return 2
    settings = parts.settings
    running = uvicorn.Server(
        uvicorn.Config(
            app,
            host=settings.dashboard_host,
            port=settings.dashboard_port,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
    )
    for stop in (signal.SIGTERM, signal.SIGINT):
        # uvicorn raises the signal again once it has stopped; this makes that harmless, so that the rest ends too.
        signal.signal(stop, running.handle_exit)
    threading.Thread(target=_load_when_serving, args=[running], name="load", daemon=True).start()
    running.run()
    parts.database.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
