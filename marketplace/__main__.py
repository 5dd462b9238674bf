"""`python -m marketplace`: load the settings, wire the process, serve until SIGTERM."""

import asyncio
import signal
import sys

import uvicorn

from config.secrets import (
    MARKETPLACE_TOKEN,
    WEBHOOK_SECRETS,
    Role,
    context_key,
    read_database_password,
    read_secret,
    read_secret_values,
)
from config.settings import Settings, load_settings
from config.tracing import open_tracer
from core.errors.platform import SettingsInvalid
from database.connection.database import Database
from marketplace.app import EndpointConfig, create_app
from marketplace.db_executor import ENROLMENT_THREADS, THREADS
from marketplace.enrolment.jwks import Issuers
from marketplace.enrolment.routes import EnrolmentConfig
from openkcm.contract.client_files import Offer as Addresses
from openkcm.logging import configure_logs
from workflows.client.workflow_client import WorkflowClient

_GRACE_SECONDS = 10


def enrolment_offer(settings: Settings) -> EnrolmentConfig:
    """Return the data that agents receive about the platform, and the issuers of accepted JWTs."""
    crypto = Addresses(settings.crypto_https_url, settings.crypto_kmip_address)
    return EnrolmentConfig(settings.enrolment_url, settings.regions, crypto, Issuers(settings.workload_issuers))


async def serve(settings: Settings) -> None:
    """Serve until a signal stops the process; running requests are completed first.

    Raises:
        SettingsInvalid: a secret is missing or malformed.
    """
    folder = settings.secrets
    database = Database(
        settings.postgres_url,
        Role.MARKETPLACE,
        read_database_password(folder, Role.MARKETPLACE),
        bytes.fromhex(read_secret(folder, context_key(Role.MARKETPLACE))),
        max_size=THREADS + ENROLMENT_THREADS + 1,  # for the readiness
    )
    tracer = open_tracer(settings, "marketplace")
    gateway = await WorkflowClient.connect(
        settings.temporal_address, settings.provisioning_slo_seconds, settings.log_format, tracer
    )
    offer = EndpointConfig(
        webhook_secrets=read_secret_values(folder, WEBHOOK_SECRETS),
        tokens=read_secret_values(folder, MARKETPLACE_TOKEN),
        regions=settings.regions,
        base_url=settings.dashboard_url,
        body_limit=settings.marketplace_body_limit,
        enrolment=enrolment_offer(settings),
    )
    config = uvicorn.Config(
        create_app(database, gateway, offer, tracer),
        host=settings.marketplace_host,
        port=settings.marketplace_port,
        log_config=None,
        access_log=False,
        server_header=False,
        # The header of another sender must not determine the source in an audit record.
        proxy_headers=bool(settings.proxy_networks),
        forwarded_allow_ips=list(settings.proxy_networks),
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    running = uvicorn.Server(config)
    for stop in (signal.SIGTERM, signal.SIGINT):
        # uvicorn raises the signal again after it has stopped; with this handler the cleanup below still runs.
        signal.signal(stop, running.handle_exit)
    try:
        await running.serve()
    finally:
        await asyncio.to_thread(database.close)
        if tracer is not None:
            await asyncio.to_thread(tracer.close)


def main() -> int:
    """Return the exit status: 2 for invalid settings."""
    try:
        settings = load_settings()
        configure_logs(settings.log_format, "marketplace")
        asyncio.run(serve(settings))
    except SettingsInvalid as refused:
        sys.stderr.write(f"{refused.message}\nhint: {refused.hint}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
