"""The page for a refused request: a separate document, because the application is not shown to the user."""

from html import escape
from http import HTTPStatus

from core.errors.compliance import CertificateMissing, ReportUnknown
from core.errors.services import InvalidRequest
from core.errors.tenants import AccessDenied, SessionEnded
from openkcm.errors import OpenKcmError, PlatformError

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title} · OpenKCM</title>
<style>
html {{ background: Canvas; color: CanvasText; }}
body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 36rem; margin: 15vh auto; padding: 0 1.5rem; }}
h1 {{ font-size: 1.6rem; }}
a {{ color: LinkText; }}
</style>
</head>
<body>
<main>
<p>OpenKCM · {status}</p>
<h1>{title}</h1>
<p>{message}</p>
<p>{hint}</p>
<p>{ways}</p>
</main>
</body>
</html>
"""
_TITLES: dict[type[OpenKcmError], str] = {
    SessionEnded: "Your session has ended",
    AccessDenied: "Access denied",
    InvalidRequest: "Invalid request",
}
_WAYS: dict[type[OpenKcmError], tuple[tuple[str, str], ...]] = {
    SessionEnded: (("Sign in", "/"),),
    AccessDenied: (("Go to your page", "/"), ("Sign in with another account", "/auth/logout")),
    InvalidRequest: (("Go to your page", "/"),),
}
_AGAIN = (("Try again", ""),)


def status(refused: OpenKcmError) -> HTTPStatus:
    """Return 403 for denied access, 400 for an invalid request, 404 for a missing file, 503 for a platform error."""
    if isinstance(refused, PlatformError):
        return HTTPStatus.SERVICE_UNAVAILABLE
    if isinstance(refused, CertificateMissing | ReportUnknown):
        return HTTPStatus.NOT_FOUND
    return HTTPStatus.BAD_REQUEST if isinstance(refused, InvalidRequest) else HTTPStatus.FORBIDDEN


def render(refused: OpenKcmError) -> str:
    """Return the document; it contains fixed texts only and nothing of the requested page."""
    code = status(refused)
    return _PAGE.format(
        title=escape(_TITLES.get(type(refused), "Page unavailable")),
        status=f"{code.value} {code.phrase}",
        message=escape(f"{refused.message[:1].upper()}{refused.message[1:]}."),
        hint=escape(f"{refused.hint[:1].upper()}{refused.hint[1:]}."),
        ways=" · ".join(f'<a href="{link}">{way}</a>' for way, link in _WAYS.get(type(refused), _AGAIN)),
    )
