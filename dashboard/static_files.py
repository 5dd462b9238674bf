"""Streamlit's static files and its document, from memory.

Streamlit reads the files from the disk for every new browser, in small parts, and sends them uncompressed, and a page
loads many of them. Each name has a hash of its content, so browsers keep them.

The document of a page names the root of its route. Otherwise Streamlit tries the address of the page as a root first,
and waits 100 ms after the failure.
"""

import asyncio
import gzip
import json
import mimetypes
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import streamlit
from starlette.datastructures import Headers
from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from dashboard.auth.middleware import PLACE_HEADER
from dashboard.auth.routes import PAGES

_ROOT = Path(streamlit.__file__).parent / "static"
_COMPRESSED = frozenset({".js", ".css", ".svg"})
"""Fonts and pictures are compressed already."""
_DOCUMENTS = frozenset(f"/{page}" for page in frozenset[str]().union(*PAGES.values()))
# Without HOST_CONFIG, with which Streamlit connects before it has its XSRF cookie: it ignores the session of a browser
# without that cookie.
_CONFIGURATION = """<script>
      window.__streamlit = {BACKEND_BASE_URL: location.origin + %s};
    </script>
    """


def _names() -> Mapping[str, Path]:
    return {f"/{path.relative_to(_ROOT).as_posix()}": path for path in (_ROOT / "static").rglob("*") if path.is_file()}


@dataclass(frozen=True, slots=True)
class StaticFiles:
    """Serves the files below `/static/` and the documents of pages, by exact names; all else is a request for `app`."""

    app: ASGIApp
    names: Mapping[str, Path] = field(default_factory=_names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reads = scope["type"] == "http" and scope["method"] in {"GET", "HEAD"}
        root = Headers(scope=scope).get(PLACE_HEADER) if reads and scope["path"] in _DOCUMENTS else None
        if root is not None:
            await HTMLResponse(_document(root))(scope, receive, send)
            return
        path = self.names.get(scope["path"]) if reads else None
        if path is None:
            await self.app(scope, receive, send)
            return
        compressed = path.suffix in _COMPRESSED and "gzip" in Headers(scope=scope).get("accept-encoding", "")
        # In a thread: the first request for a file reads and compresses it, which would delay all open pages.
        content = await asyncio.to_thread(_content, path, compressed=compressed)
        headers = {"cache-control": "public, immutable, max-age=31536000", "vary": "accept-encoding"}
        if compressed:
            headers["content-encoding"] = "gzip"
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        await Response(content, headers=headers, media_type=kind)(scope, receive, send)


def _document(root: str) -> str:
    before, head, after = _index().partition('<script type="module"')
    return f"{before}{_CONFIGURATION % json.dumps(root)}{head}{after}"


@cache
def _index() -> str:
    return (_ROOT / "index.html").read_text()


@cache
def _content(path: Path, *, compressed: bool) -> bytes:
    content = path.read_bytes()
    return gzip.compress(content, 6) if compressed else content
