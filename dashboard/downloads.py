"""Files that are too large to be made in a page: routes of a place, behind the same guard as its pages.

Such an answer is made while it is sent, and a browser that is slow or gone holds no transaction open.
"""

import asyncio
from collections.abc import Callable

from starlette import routing
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse

from core.audit import AuditFilter
from core.errors.compliance import CertificateMissing
from core.errors.tenants import AccessDenied, SessionEnded
from core.tenants.roles import Permission
from dashboard.audit import stream
from dashboard.audit import view as audit_query
from dashboard.auth import access_denied_page as refusal_page
from dashboard.auth import cookies
from dashboard.auth.middleware import PLACE_HEADER, SOURCE_HEADER
from dashboard.auth.routes import Route, RouteKind, named
from dashboard.offboarding import section as left
from dashboard.page_context import PageContext
from dashboard.reports import actions as report_actions
from dashboard.reports import view as report_query
from dashboard.wiring import Dependencies
from openkcm.contract.audit_events import AuditName
from openkcm.errors import OpenKcmError
from openkcm.verification.erasure_certificate import certificate_file


def routes(parts: Dependencies) -> list[routing.BaseRoute]:
    """Return the routes, as the application sees their paths once the edge has found the place."""
    downloads = Downloads(parts)
    return [
        routing.Route(f"/{audit_query.DOWNLOAD}", downloads.audit),
        routing.Route(f"/{left.CERTIFICATE}", downloads.certificate),
        routing.Route(f"/{report_query.DOWNLOAD}", downloads.report),
    ]


class Downloads:
    def __init__(self, parts: Dependencies) -> None:
        self._parts = parts

    async def audit(self, request: Request) -> Response:
        """Answer with the records of the tenant's audit stream that the query asks for, as JSON Lines."""
        return await self._answer(request, self._audit)

    async def certificate(self, request: Request) -> Response:
        """Answer with the signed statement of what was destroyed when the tenant left, as anybody can verify it."""
        return await self._answer(request, self._certificate)

    async def report(self, request: Request) -> Response:
        """Answer with one file of a compliance report, as it was signed."""
        return await self._answer(request, self._report)

    async def _answer(self, request: Request, make: Callable[[Request, PageContext], Response]) -> Response:
        place = named(request.headers.get(PLACE_HEADER, ""))
        try:
            if place is None or place.kind is not RouteKind.TENANT:
                raise AccessDenied
            return await asyncio.to_thread(lambda: make(request, self._seat(request, place)))
        except OpenKcmError as refused:
            return HTMLResponse(refusal_page.render(refused), refusal_page.status(refused))

    def _audit(self, request: Request, seat: PageContext) -> Response:
        chosen = audit_query.decode(request.url.query)
        lines = stream.export(seat, chosen)
        if lines is None:
            raise AccessDenied("your role does not show the audit stream", "ask an administrator or an auditor")
        what = "audit-selection" if chosen != AuditFilter() else "audit"
        name = f"{seat.tenant_id}-{what}-{seat.now():%Y%m%dT%H%M%SZ}.jsonl"
        return StreamingResponse(lines, media_type="application/jsonl", headers=_saved_as(name))

    @staticmethod
    def _certificate(_: Request, seat: PageContext) -> Response:
        if not seat.may(Permission.VIEW):
            with seat.database.tenant_tx(seat.tenant_id) as tx:
                tx.audit.append(seat.event(AuditName.ACTION_REFUSED, left.CERTIFICATE, "refused", action="export"))
            raise AccessDenied("your role does not show this tenant", "ask an administrator of your organization")
        with seat.database.tenant_tx(seat.tenant_id) as tx:
            kept = tx.leaving.certificate()
            if kept is None:
                raise CertificateMissing
            tx.audit.append(seat.event(AuditName.EXPORTED, left.CERTIFICATE, "success"))
        document = certificate_file(kept.statement, kept.signature, kept.key)
        headers = _saved_as(f"{seat.tenant_id}-{left.CERTIFICATE}")
        return Response(document, media_type="application/json", headers=headers)

    @staticmethod
    def _report(request: Request, seat: PageContext) -> Response:
        report_id, form = report_query.decode(request.url.query)
        asked = report_actions.download(seat, report_id, form)
        headers = _saved_as(report_query.file_name(seat.tenant_id, asked.row, form))
        return Response(asked.content, media_type=report_query.MEDIA[form], headers=headers)

    def _seat(self, request: Request, place: Route) -> PageContext:
        parts, source = self._parts, request.headers.get(SOURCE_HEADER, "")
        try:
            claims = cookies.read_claims(request.cookies, parts.cookie_secret, parts.origin)
        except cookies.InvalidCookie:
            raise SessionEnded from None
        if claims is None:
            raise SessionEnded
        return parts.seat(parts.guard.admit(claims, place, {}, source), source)


def _saved_as(name: str) -> dict[str, str]:
    return {"content-disposition": f'attachment; filename="{name}"'}
