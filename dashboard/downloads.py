"""Downloads that are too large for a page: routes of a tenant, behind the same authorization as its pages.

The response is streamed, and a slow or disconnected browser holds no transaction open.
"""

import asyncio
from collections.abc import Callable

from starlette import routing
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from core.audit import AuditFilter
from core.errors.compliance import CertificateMissing
from core.errors.tenants import AccessDenied, SessionEnded
from core.tenants.roles import Permission
from dashboard.audit import stream
from dashboard.audit import view as audit_query
from dashboard.auth import cookies, error_documents
from dashboard.auth.middleware import PLACE_HEADER, SOURCE_HEADER
from dashboard.auth.routes import Route, RouteKind, named
from dashboard.offboarding import section as offboarding
from dashboard.page_context import PageContext
from dashboard.reports import actions as report_actions
from dashboard.reports import view as report_query
from dashboard.wiring import Dependencies
from openkcm.contract.audit_events import AuditName
from openkcm.errors import OpenKcmError
from openkcm.verification.erasure_certificate import certificate_file


def routes(parts: Dependencies) -> list[routing.Route]:
    """Return the routes, with paths relative to the route that the middleware has resolved."""
    downloads = Downloads(parts)
    return [
        routing.Route(f"/{audit_query.DOWNLOAD}", downloads.audit),
        routing.Route(f"/{offboarding.CERTIFICATE}", downloads.certificate),
        routing.Route(f"/{report_query.DOWNLOAD}", downloads.report),
    ]


class Downloads:
    def __init__(self, parts: Dependencies) -> None:
        self._parts = parts

    async def audit(self, request: Request) -> Response:
        """Return the requested records of the tenant's audit stream as JSON Lines."""
        return await self._answer(request, self._audit)

    async def certificate(self, request: Request) -> Response:
        """Return the signed erasure certificate of an offboarded tenant, which anyone can verify."""
        return await self._answer(request, self._certificate)

    async def report(self, request: Request) -> Response:
        """Return one file of a compliance report, as it was signed."""
        return await self._answer(request, self._report)

    async def _answer(self, request: Request, make: Callable[[Request, PageContext], Response]) -> Response:
        route = named(request.headers.get(PLACE_HEADER, ""))
        try:
            if route is None or route.kind is not RouteKind.TENANT:
                raise AccessDenied
            return await asyncio.to_thread(lambda: make(request, self._page_context(request, route)))
        except OpenKcmError as refused:
            return error_documents.response(refused)

    def _audit(self, request: Request, context: PageContext) -> Response:
        chosen = audit_query.decode(request.url.query)
        lines = stream.export(context, chosen)
        if lines is None:
            raise AccessDenied("your role does not include the audit stream", "ask an administrator or an auditor")
        what = "audit-selection" if chosen != AuditFilter() else "audit"
        name = f"{context.tenant_id}-{what}-{context.now():%Y%m%dT%H%M%SZ}.jsonl"
        return StreamingResponse(lines, media_type="application/jsonl", headers=_saved_as(name))

    @staticmethod
    def _certificate(_: Request, context: PageContext) -> Response:
        if not context.may(Permission.VIEW):
            with context.database.tenant_tx(context.tenant_id) as tx:
                tx.audit.append(
                    context.event(AuditName.ACTION_REFUSED, offboarding.CERTIFICATE, "refused", action="export")
                )
            raise AccessDenied("your role does not include this tenant", "ask an administrator of your organization")
        with context.database.tenant_tx(context.tenant_id) as tx:
            kept = tx.leaving.certificate()
            if kept is None:
                raise CertificateMissing
            tx.audit.append(context.event(AuditName.EXPORTED, offboarding.CERTIFICATE, "success"))
        document = certificate_file(kept.statement, kept.signature, kept.key)
        headers = _saved_as(f"{context.tenant_id}-{offboarding.CERTIFICATE}")
        return Response(document, media_type="application/json", headers=headers)

    @staticmethod
    def _report(request: Request, context: PageContext) -> Response:
        report_id, form = report_query.decode(request.url.query)
        asked = report_actions.download(context, report_id, form)
        headers = _saved_as(report_query.file_name(context.tenant_id, asked.row, form))
        return Response(asked.content, media_type=report_query.MEDIA[form], headers=headers)

    def _page_context(self, request: Request, route: Route) -> PageContext:
        parts, source = self._parts, request.headers.get(SOURCE_HEADER, "")
        try:
            claims = cookies.read_claims(request.cookies, parts.cookie_secrets[0], parts.origin)
        except cookies.InvalidCookie:
            raise SessionEnded from None
        if claims is None:
            raise SessionEnded
        return parts.page_context(parts.guard.admit(claims, route, {}, source), source)


def _saved_as(name: str) -> dict[str, str]:
    return {"content-disposition": f'attachment; filename="{name}"'}
