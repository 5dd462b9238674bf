"""Streamlit's static files, from memory and compressed once.

Streamlit reads them from the disk for every new browser, in small parts, and sends them uncompressed, and a page loads
many of them. Each name has a hash of its content, so browsers keep them.
"""

import asyncio
import gzip
import mimetypes
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import streamlit
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

_ROOT = Path(streamlit.__file__).parent / "static"
_COMPRESSED = frozenset({".js", ".css", ".svg"})
"""Fonts and pictures are compressed already."""


def _names() -> Mapping[str, Path]:
    return {f"/{path.relative_to(_ROOT).as_posix()}": path for path in (_ROOT / "static").rglob("*") if path.is_file()}


@dataclass(frozen=True, slots=True)
class StaticFiles:
    """Serves the files below `/static/`, by exact names; everything else is a request for `app`."""

    app: ASGIApp
    names: Mapping[str, Path] = field(default_factory=_names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = self.names.get(scope["path"]) if scope["type"] == "http" and scope["method"] in {"GET", "HEAD"} else None
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


@cache
def _content(path: Path, *, compressed: bool) -> bytes:
    content = path.read_bytes()
    return gzip.compress(content, 6) if compressed else content
