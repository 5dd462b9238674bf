"""The crypto service with both APIs in this process, so that a test can remove a control while it runs."""

import asyncio
import socket
import threading
from datetime import timedelta
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from cryptography import x509
from temporalio.testing import ActivityEnvironment

from activities.isolation.crypto_api_suite import CryptoApiIsolationSuite
from activities.isolation.probe_services import ProbeServices, presenting
from activities.services import ServiceActivities, service_operation
from compliance.isolation.crypto_api.model import Identity
from compliance.isolation.crypto_api.session import Endpoints, SessionPool
from compliance.isolation.crypto_api.suite import CryptoApiSuite
from compliance.isolation.vault.forged_certificates import ForgedCertificateSigner
from config import secrets
from config.secrets import Role, ensure_secret
from config.settings import Settings
from core.errors.platform import DatabaseUnavailable
from core.isolation import CheckResult
from core.messages.base import StepInput
from core.messages.services import CertificateStep, EnrolStep, ServiceStep
from crypto_service import wiring
from crypto_service.audit.shipper import AuditShipper
from crypto_service.audit.wal import journal_folder
from crypto_service.processes import worker_process as serving
from crypto_service.server.tls import SharedTlsIdentity
from database.services.repository import ServiceCertificateRow
from tests.concurrency import wait_until
from tests.contracts.authorities import p256, request
from tests.crypto_service.core.world import Home, Shelf, World
from tests.ports import free_port
from worker.wiring import utc_now

ACTIVITIES = ActivityEnvironment()


def _is_open(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


class RunningCryptoService:
    """A running crypto service; `start` serves in a thread with a dedicated event loop."""

    def __init__(self, world: World, folder: Path) -> None:
        secret, base = folder / "secrets", world.field.server
        ensure_secret(secret, secrets.database_password(Role.CRYPTO), base.passwords["crypto"])
        ensure_secret(secret, secrets.context_key(Role.CRYPTO), base.context_keys["crypto"].hex())
        ensure_secret(secret, secrets.vault_secret(Role.CRYPTO), (world.vault.folder / "crypto.secret").read_text())
        ensure_secret(secret, secrets.BOUNDARY_IDENTITY, world.vault.identity_pem)
        self.settings = Settings(
            state_dir=folder / "state",
            secrets_dir=secret,
            database_url=world.field.url,
            vault_address=world.vault.url,
            crypto_https_port=free_port(),
            crypto_kmip_port=free_port(),
            shutdown_grace_seconds=0.5,
        )
        self.address = Endpoints("localhost", self.settings.crypto_https_port, self.settings.crypto_kmip_port)
        self._credentials = wiring.read_credentials(self.settings)
        self._shipper = AuditShipper(
            journal_folder(self.settings.state_dir), wiring.open_database(self.settings, self._credentials, 2)
        )
        self._loop = asyncio.new_event_loop()
        self._serving: asyncio.Task[None] | None = None
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._serve, name="crypto-service"),
            threading.Thread(target=self._shipper.run, args=(self._stop,), name="audit-shipper"),
        ]

    def start(self) -> None:
        """Return when both ports are open."""
        for thread in self._threads:
            thread.start()
        for port in (self.settings.crypto_https_port, self.settings.crypto_kmip_port):
            wait_until(partial(_is_open, port), lambda: "the service does not listen")

    def stop(self) -> None:
        self._stop.set()
        if self._serving is not None:
            self._loop.call_soon_threadsafe(self._serving.cancel)
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        reports, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        with reports, theirs, asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._until_stopped(theirs))

    async def _until_stopped(self, reports: socket.socket) -> None:
        self.service = service = wiring.build(self.settings, self._credentials, SharedTlsIdentity())
        self._serving = asyncio.ensure_future(serving._run(self.settings, service, reports))
        await asyncio.wait({self._serving})
        service.connections.stop()
        await service.changes.stop()
        service.threads.close()
        service.opening.close()
        service.keyring.close()
        service.journal.close()


class ActivityServiceConnector:
    """Connects services with the activities of the service workflow, without the workflow."""

    def __init__(self, world: World) -> None:
        self._operations = count(1)
        self._services = ServiceActivities(
            world.worker, world.tenant_keys, Shelf(world.root), world.authorities, timedelta(hours=1), utc_now
        )

    def connect(self, tenant_id: str, _region: str, service: str, request_id: str) -> None:
        who = {"tenant_id": tenant_id, "service": service}
        plan = self._run("record_service", EnrolStep(**who, operation_id="service", request_id=request_id))
        step = CertificateStep(**who, operation_id=service_operation(service, plan), **plan.model_dump())
        for name in ("create_service_key", "issue_certificate", "mark_connected"):
            self._run(name, step)

    def disconnect(self, tenant_id: str, _region: str, service: str) -> None:
        operation_id = f"off-{service}-{next(self._operations)}"
        self._run("disconnect_service", ServiceStep(tenant_id=tenant_id, service=service, operation_id=operation_id))

    def _run(self, name: str, step: StepInput) -> Any:
        while True:
            try:
                return ACTIVITIES.run(getattr(self._services, name), step)
            except DatabaseUnavailable:  # a deadlock with the audit shipper, which Temporal would retry
                continue


def close_sessions(pool: SessionPool) -> None:
    """Close the pooled sessions; those of the worker end with its process."""
    while pool._idle:
        pool._idle.pop().side.close()


def attacks_on(world: World, service: RunningCryptoService) -> CryptoApiIsolationSuite:
    """Return the isolation suite as the worker builds it."""
    session = world.vault.session("worker")
    attacker, forger = CryptoApiSuite(service.address), ForgedCertificateSigner(session)
    return CryptoApiIsolationSuite(world.worker, attacker, forger, probes_of(world), utc_now)


def probes_of(world: World) -> ProbeServices:
    return ProbeServices(world.worker, ActivityServiceConnector(world), utc_now)


def connected(home: Home, service: str) -> Identity:
    """Connect a service of a customer and return its identity."""
    key = p256()
    home.connect(service)
    leaf = home.world.authorities.issue(home.authority, home.tenant_id, service, request(key), timedelta(hours=1))
    certificate = x509.load_pem_x509_certificate(leaf.certificate_pem.encode())
    dates = (certificate.not_valid_before_utc, certificate.not_valid_after_utc)
    with home.world.worker.tenant_tx(home.tenant_id) as tx:
        tx.services.record_leaf(
            ServiceCertificateRow(
                leaf.serial, service, 2, "request-2", leaf.certificate_pem, *dates, home.authority.serial
            )
        )
    return presenting(home.tenant_id, service, leaf, home.authority.chain_pem, key)


def breached_checks(results: list[CheckResult]) -> set[str]:
    return {result.name.removeprefix("crypto-api/") for result in results if result.outcome == "breached"}
