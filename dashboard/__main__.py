"""`python -m dashboard`: load settings, wire, serve until SIGTERM."""

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
from dashboard.auth.middleware import HEALTH, READINESS, AuthMiddleware
from dashboard.late_requests import ignore_late_requests
from dashboard.library_logs import hand_over_logs
from dashboard.static_files import StaticFiles
from dashboard.wiring import Dependencies, Develop
from openkcm.logging import configure_logs

_SCRIPT = Path(__file__).with_name("app.py")
_GRACE_SECONDS = 5
_POLL_SECONDS = 0.1
_AT_FIRST_USE = ("dashboard.router", "pandas", "pyarrow")
"""Modules that the script imports at its first run; loaded at start, so that the first user does not wait for them."""


def create_app(parts: Dependencies) -> AuthMiddleware:
    """Return the application; a file in the working directory cannot change what is configured here."""
    settings, origin = parts.settings, parts.origin
    redirect_uri = f"{origin}/oauth2callback"
    routes: list[BaseRoute] = [
        Route(HEALTH, _health),
        Route(READINESS, _readiness),
    ]
    if parts.development is not None:
        routes += parts.development.routes
    files = downloads.routes(parts)
    routes += files
    # Otherwise Streamlit uses the folder `pages` until a script has called `st.navigation`: the first request for a
    # page after a start would show a menu of these modules instead.
    PagesManager.uses_pages_directory = False
    app = st.App(
        _SCRIPT,
        routes=routes,
        secrets={
            "auth": {
                "redirect_uri": redirect_uri,
                "cookie_secret": parts.cookie_secrets[0],
                "client_id": settings.oidc_client_id,
                "client_secret": parts.client_secret,
                "server_metadata_url": parts.metadata_url,
                # The client reads the environment: Streamlit accepts plain values only, and `trust_env` false would
                # also ignore SSL_CERT_FILE, which names the CA of a private identity provider.
                "client_kwargs": {"scope": settings.oidc_scopes},
            }
        },
    )
    if config.get_option("server.enableAgentApi") or config.get_option("browser.gatherUsageStats"):
        raise SettingsInvalid(
            "Streamlit settings enable the agent API or usage statistics", "unset the STREAMLIT_* variables"
        )
    # Streamlit creates its session middleware before it reads `secrets`. Without this option each process would sign
    # with another key, and a sign-on that begins at one instance could not end at another. Not earlier: the first
    # access to an option reads the file beside the script, which `App` names.
    config.set_option("server.cookieSecret", parts.cookie_secrets[0])
    # The origins that may send window messages to a page; by default those of Streamlit's cloud, each compared with
    # every message.
    config.set_option("client.allowedOrigins", [origin])
    return AuthMiddleware(
        StaticFiles(app),
        parts.guard,
        parts.cookie_secrets,
        origin,
        develops=parts.develops,
        files=frozenset(file.path for file in files),
    )


async def _health(_request: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _readiness(_request: Request) -> Response:
    status, shown = wiring.parts().readiness.answer()
    return JSONResponse(shown, status)


def _load_when_serving(running: uvicorn.Server) -> None:
    """Load all code after the server has started and exclude it from garbage collection.

    Not earlier: it takes a second, while the other processes of a stack start on the same processors. Streamlit
    collects garbage after every rerun, including the session polls of open tabs. Scanning a hundred thousand code
    objects takes longer than most pages.
    """
    while not running.started:
        if running.should_exit:
            return
        time.sleep(_POLL_SECONDS)
    for name in _AT_FIRST_USE:
        import_module(name)
    gc.collect()
    gc.freeze()


def main(develop: Develop | None = None) -> int:
    """Serve until SIGTERM; return the exit status, 2 for invalid settings.

    `develop` creates the sign-on and the marketplace page of the development stack.
    """
    try:
        parts = wiring.build(load_settings(), develop)
        wiring.install(parts)
        configure_logs(parts.settings.log_format, "dashboard")
        hand_over_logs()
        ignore_late_requests()
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
            proxy_headers=bool(settings.proxy_networks),
            forwarded_allow_ips=list(settings.proxy_networks),
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
    )
    for stop in (signal.SIGTERM, signal.SIGINT):
        # uvicorn raises the signal again once it has stopped; this handler ignores it, so that the shutdown completes.
        signal.signal(stop, running.handle_exit)
    threading.Thread(target=_load_when_serving, args=[running], name="load", daemon=True).start()
    parts.readiness.start()
    running.run()
    parts.readiness.stop()
    parts.database.close()
    if parts.tracer is not None:
        parts.tracer.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
