"""Files that are too large to be made in a page: routes of a place, behind the same guard as its pages.

Such an answer is made while it is sent, and a browser that is slow or gone holds no transaction open.
"""

import asyncio

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from dashboard import cookies, refusal_page, stream
from dashboard.edge import PLACE_HEADER, SOURCE_HEADER
from dashboard.places import Place, PlaceKind, named
from dashboard.views import audit_query
from dashboard.wiring import Parts
from tenancy.audit_search import AuditFilter
from tenancy.errors import AccessRefused, OpenKcmError, SessionEnded


def routes(parts: Parts) -> list[BaseRoute]:
    """Return the routes, as the application sees their paths once the edge has found the place."""
    downloads = Downloads(parts)
    return [Route(f"/{audit_query.DOWNLOAD}", downloads.audit)]


class Downloads:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def audit(self, request: Request) -> Response:
        """Answer with the records of the tenant's audit stream that the query asks for, as JSON Lines."""
        place = named(request.headers.get(PLACE_HEADER, ""))
        try:
            if place is None or place.kind is not PlaceKind.TENANT:
                raise AccessRefused
            chosen = audit_query.decode(request.url.query)
            return await asyncio.to_thread(self._audit, request, place, chosen)
        except OpenKcmError as refused:
            return HTMLResponse(refusal_page.render(refused), refusal_page.status(refused))

    def _audit(self, request: Request, place: Place, chosen: AuditFilter) -> Response:
        parts, source = self._parts, request.headers.get(SOURCE_HEADER, "")
        try:
            claims = cookies.read_claims(request.cookies, parts.cookie_secret, parts.origin)
        except cookies.Forged:
            raise SessionEnded from None
        if claims is None:
            raise SessionEnded
        seat = parts.seat(parts.guard.admit(claims, place, {}, source), source)
        lines = stream.export(seat, chosen)
        if lines is None:
            raise AccessRefused("your role does not show the audit stream", "ask an administrator or an auditor")
        what = "audit-selection" if chosen != AuditFilter() else "audit"
        name = f"{seat.tenant_id}-{what}-{seat.now():%Y%m%dT%H%M%SZ}.jsonl"
        disposition = {"content-disposition": f'attachment; filename="{name}"'}
        return StreamingResponse(lines, media_type="application/jsonl", headers=disposition)
