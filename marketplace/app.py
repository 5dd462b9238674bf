"""The routes of the API. `events` and `enrolment` contain the decisions."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, JSONResponse, Response

from config.secrets import is_one_of
from core.correlation import correlation_id
from core.errors.requests import Unauthorized
from core.tenants.provisioning import MarketplaceEvent
from core.tracing.spans import SERVER, Tracer, parse
from database.connection.database import Database
from database.connection.readiness import DatabaseReadiness
from database.platform.scheduled import PlatformQueries
from marketplace.db_executor import ENROLMENT_THREADS, DatabaseExecutor
from marketplace.enrolment.relay import EnrolmentRelay
from marketplace.enrolment.routes import EnrolmentApi, EnrolmentConfig, add_routes
from marketplace.events.accept import accept, look_up
from marketplace.events.parse import read_event
from marketplace.events.relay import EventRelay
from marketplace.events.signature import SignatureCheck
from marketplace.http import openapi
from marketplace.http import openapi_page as page
from marketplace.http.body import read_body
from marketplace.http.middleware import CODE, RequestMiddleware
from marketplace.http.problems import answer, problem
from marketplace.schemas import EventAnswer, StatusAnswer, status_answer
from openkcm.contract.names import parse_tenant_id
from openkcm.errors import OpenKcmError
from workflows.client.workflow_client import WorkflowClient


@dataclass(frozen=True, slots=True)
class EndpointConfig:
    """Settings of the API: secrets of the senders, tokens for the status, regions and limits.

    During a replacement there are two secrets and two tokens, and each is accepted.
    """

    webhook_secrets: Sequence[str]
    tokens: Sequence[str]
    regions: tuple[str, ...]
    base_url: str
    body_limit: int
    enrolment: EnrolmentConfig


def create_app(
    database: Database, workflows: WorkflowClient, offer: EndpointConfig, tracer: Tracer | None = None
) -> FastAPI:
    """Return the application; the relays run as long as it does.

    Raises:
        SettingsInvalid: a webhook secret is malformed.
    """
    check = SignatureCheck(offer.webhook_secrets)
    transactions = DatabaseExecutor()
    queries = PlatformQueries(database)
    sweep = EventRelay(database, queries, workflows, transactions)
    # Separate threads, so that a flood of enrolments delays no event.
    enrolment_transactions = DatabaseExecutor(ENROLMENT_THREADS)
    enrolments = EnrolmentRelay(database, queries, workflows, enrolment_transactions)

    readiness = DatabaseReadiness(database)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        readiness.start()
        rounds = [asyncio.create_task(one.run()) for one in (sweep, enrolments)]
        yield
        for running in rounds:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running
        for one in (sweep, enrolments):
            await one.close()
        for threads in (transactions, enrolment_transactions):
            threads.close()
        await asyncio.to_thread(readiness.stop)

    app = FastAPI(
        title="OpenKCM marketplace endpoint",
        description=openapi.DESCRIPTION,
        version="1",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        # FastAPI would export headers, addresses and the texts of exceptions if the environment configures it.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.add_middleware(RequestMiddleware)
    app.add_exception_handler(OpenKcmError, _refuse)
    app.add_exception_handler(HTTPException, _refuse_route)

    @app.post("/v1/events", status_code=202, response_model=EventAnswer, **openapi.EVENTS)
    async def take_event(request: Request) -> Response:
        body = await read_body(request, offer.body_limit)
        headers = dict(request.headers)
        event = read_event(body, headers, check.verify(headers, body), offer.regions)
        correlation_id.set(event.event_id)
        source = request.client.host if request.client else ""
        with _traced(tracer, event, request):
            accepted = await transactions.run(partial(accept, database, event, source))
            if not accepted.duplicate:
                sweep.offer((event.tenant_id, event.event_id, event.region, event.kind))
        status_url = str(request.url_for("show_tenant", tenant_id=event.tenant_id))
        stored = EventAnswer(
            tenant_id=event.tenant_id,
            state=accepted.state,
            event_id=event.event_id,
            duplicate=accepted.duplicate,
            status_url=status_url,
        )
        return JSONResponse(stored.model_dump(mode="json"), HTTPStatus.ACCEPTED, {"location": status_url})

    @app.get("/v1/tenants/{tenant_id}", response_model=StatusAnswer, **openapi.TENANT)
    async def show_tenant(request: Request, tenant_id: str) -> Response:
        _require_token(request, offer.tokens)
        row, steps = await transactions.run(partial(look_up, database, parse_tenant_id(tenant_id)))
        shown = status_answer(row, steps, offer.base_url)
        return JSONResponse(shown.model_dump(mode="json"), headers={"cache-control": "no-store"})

    add_routes(app, EnrolmentApi(database, enrolment_transactions, enrolments, offer.enrolment))

    _add_checks(app, readiness)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(page.render(app.openapi()), headers={"content-security-policy": page.POLICY})

    return app


@contextmanager
def _traced(tracer: Tracer | None, event: MarketplaceEvent, request: Request) -> Iterator[None]:
    """Record the acceptance of an event; only after its signature is verified, so that no other sender has a cost."""
    if tracer is None:
        yield
        return
    with tracer.span("accept event", SERVER, parse(request.headers.get("traceparent")), inherits=False) as span:
        span.attributes |= {"openkcm.tenant_id": event.tenant_id, "openkcm.event": event.kind}
        yield


def _add_checks(app: FastAPI, readiness: DatabaseReadiness) -> None:
    @app.get("/healthz", **openapi.HEALTH)
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", **openapi.READINESS)
    async def readyz() -> Response:
        status, shown = readiness.answer()
        return JSONResponse(shown, status)


def _require_token(request: Request, tokens: Sequence[str]) -> None:
    scheme, _, sent = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not is_one_of(sent, tokens):
        raise Unauthorized


async def _refuse(request: Request, refused: Exception) -> Response:
    if not isinstance(refused, OpenKcmError) or (response := answer(refused)) is None:
        raise refused
    request.scope[CODE] = refused.code
    return response


async def _refuse_route(_request: Request, refused: Exception) -> Response:
    status = refused.status_code if isinstance(refused, HTTPException) else HTTPStatus.NOT_FOUND
    phrase = HTTPStatus(status).phrase.lower()
    return problem(
        status,
        phrase.replace(" ", "_"),
        phrase,
        "see /docs for the routes of this API",
        getattr(refused, "headers", None),
    )
