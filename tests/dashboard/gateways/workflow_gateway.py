"""A workflow gateway that changes the rows of a real database as the workflows do, with the same rejections."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from temporalio.common import MetricMeter
from temporalio.testing import ActivityEnvironment

from activities.notifications import (
    NotificationActivities,
    NotificationOutbox,
    SigningSecrets,
    TargetSender,
    WebhookSender,
)
from activities.runtime.metrics import Metrics
from config.credential_encryption import decrypt_signing_secret
from core.certificates import AuthorityState
from core.errors.compliance import AssessmentFailed
from core.errors.services import ServiceUnknown
from core.errors.tenants import InvalidTransition, TenantNotOperational
from core.isolation import CheckResult, run_of
from core.messages.notifications import DeliverInput
from core.services import ServiceState, refuse_another_key
from core.tenants.lifecycle import DECRYPTS, ENCRYPTS, State, Transition
from database.certificates import AuthorityRow
from database.connection.database import Database
from database.platform.scheduled import PlatformQueries
from database.reports import StatedRow
from database.services.repository import ServiceCertificateRow
from kms.egress_policy import EgressPolicy
from openkcm.contract.names import service_spiffe
from openkcm.verification.reports.signed_file import ReportFormat
from tests.compliance.reports.render.builders import a_standing
from tests.crypto_service.authority import Issuer, pem, root, signed
from tests.dashboard.gateways.approval_gateway import ApprovalRequests, request
from tests.dashboard.gateways.root_key_gateway import INTAKE_PRIVATE, RootKeyRequests
from tests.dashboard.gateways.rotation_gateway import RotationRequests
from tests.database.builders import a_service_key, an_examination

LIFE = timedelta(hours=72)
CMK = "https://cmk.openkcm.io"


class FakeAuthority:
    """A tenant's authority under the root of all tests."""

    def __init__(self) -> None:
        self.key, self.root = ec.generate_private_key(ec.SECP256R1()), root().certificate
        self.certificate = self._signed("authority", self.key.public_key(), root(), ca=True)

    def row(self) -> AuthorityRow:
        chain = pem(self.certificate) + pem(self.root)
        serial = f"{self.certificate.serial_number:x}"
        return AuthorityRow(serial, pem(self.certificate), chain, datetime.now(UTC) + LIFE)

    def leaf(self, tenant_id: str, service: str, csr_pem: str) -> x509.Certificate:
        key = x509.load_pem_x509_csr(csr_pem.encode()).public_key()
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(service_spiffe(tenant_id, service))])
        return self._signed(service, key, Issuer(self.certificate, self.key), (names, False), ca=False)

    @staticmethod
    def _signed(subject: str, key: Any, issuer: Issuer, *extensions: Any, ca: bool) -> x509.Certificate:
        constraints, above = x509.BasicConstraints(ca=ca, path_length=None), issuer.certificate.subject
        every = ((constraints, True), *extensions)
        return signed(subject, key, above, issuer.key, *every, start=datetime.now(UTC), life=LIFE)


def notification_activities(worker: Database, intake_key: str) -> NotificationActivities:
    """Return the activities that send to targets over real sockets; webhooks on the loopback network are allowed."""
    policy = EgressPolicy(networks=("127.0.0.0/8",))
    webhooks = WebhookSender(lambda address, encrypted: policy.allows(address, encrypted=encrypted), CMK)
    signing = SigningSecrets(
        lambda tenant, ref, sealed: decrypt_signing_secret([intake_key], tenant, ref, sealed), lambda *_: ""
    )
    return NotificationActivities(
        *(worker, PlatformQueries(worker), {}, TargetSender(webhooks, None, signing), NotificationOutbox((), CMK)),
        timedelta(hours=72),
        lambda: datetime.now(UTC),
        Metrics(MetricMeter.noop),
    )


class FakeGateway(RootKeyRequests, ApprovalRequests, RotationRequests):
    """A workflow gateway; `fails` is the error that the next requests raise, for example while Temporal is down.

    `attacks` are the results of each tenant's next assessments; those of the tenants in `unexamined` fail.
    """

    def __init__(self, worker: Database, authority: FakeAuthority, intake_key: str = INTAKE_PRIVATE) -> None:
        RootKeyRequests.__init__(self, worker, intake_key)
        ApprovalRequests.__init__(self, worker)
        RotationRequests.__init__(self, worker)
        self.authority = authority
        self.notifications = notification_activities(worker, intake_key)
        self.fails: Exception | None = None
        self.asked: list[str] = []
        self.attacks: dict[str, Sequence[CheckResult]] = {}
        self.unexamined: set[str] = set()
        self._examinations = 1

    @request(lambda tenant_id, region, asked: f"deliver {tenant_id} {region} {asked.message_id or 'test'}")
    def deliver_notification(self, _tenant_id: str, _region: str, asked: DeliverInput) -> None:
        ActivityEnvironment().run(self.notifications.deliver, asked)

    @request(lambda tenant_id, region, *, repeat: f"check {tenant_id} in {region}{' repeat' * repeat}")
    def check_boundaries(self, tenant_id: str, _region: str, *, repeat: bool) -> str:
        del repeat
        if tenant_id in self.unexamined:
            raise AssessmentFailed
        self._examinations += 1
        run = run_of(str(self._examinations))
        with self.worker.tenant_tx(tenant_id) as tx:
            an_examination(tx, *self.attacks.get(tenant_id, ()), run=run, at=datetime.now(UTC))
        return run

    @request(lambda tenant_id: f"retry {tenant_id}")
    def retry(self, tenant_id: str) -> None:
        with self.worker.tenant_tx(tenant_id) as tx:
            tenant = tx.tenants.get()
            assert tenant is not None
            if tenant.state is not State.FAILED:
                raise InvalidTransition(tenant.state, Transition.RETRY, ())
            tx.tenants.move(Transition.RETRY)

    @request(lambda tenant_id: f"roll {tenant_id}")
    def roll_authority(self, tenant_id: str) -> None:
        authority = FakeAuthority().row()._replace(key_version=2, state=AuthorityState.PREPARED)
        with self.worker.tenant_tx(tenant_id) as tx:
            tx.certificates.record_authority(authority)
            tx.certificates.activate(authority.serial)

    @request(
        lambda _tenant, _region, service, request_id, *, another_key: (
            f"connect {service} {request_id}{' another' * another_key}"
        )
    )
    def connect_service(self, tenant_id: str, region: str, service: str, request_id: str, *, another_key: bool) -> None:
        with self.worker.tenant_tx(tenant_id) as tx:
            tenant, wanted = tx.tenants.get(), tx.services.requested(request_id)
            assert tenant is not None
            assert tenant.region == region
            if tenant.state not in ENCRYPTS:
                raise TenantNotOperational(tenant.state)
            newest = tx.services.leaf(service)
            if newest is not None and newest.request_id == request_id:
                return
            row = tx.services.connect(service, wanted.kind)
            if newest is not None and not another_key:
                refuse_another_key(row.state, newest.certificate_pem, wanted.csr_pem)
            tx.services.record_key(a_service_key(tenant_id, service))
            self._issue(tx, tenant_id, service, request_id)
            tx.services.connected(service)

    @request(lambda _, region, service: f"renew {service} in {region}")
    def renew_service(self, tenant_id: str, _region: str, service: str) -> None:
        with self.worker.tenant_tx(tenant_id) as tx:
            tenant, newest, row = tx.tenants.get(), tx.services.leaf(service), tx.services.get(service)
            assert tenant is not None
            if tenant.state not in DECRYPTS:
                raise TenantNotOperational(tenant.state)
            if newest is None or row is None or row.state is not ServiceState.CONNECTED:
                raise ServiceUnknown("the service has no certificate to renew", "connect it first")
            self._issue(tx, tenant_id, service, newest.request_id)

    @request(lambda _, region, service: f"disconnect {service} in {region}")
    def disconnect_service(self, tenant_id: str, _region: str, service: str) -> None:
        with self.worker.tenant_tx(tenant_id) as tx:
            if tx.services.get(service) is None:
                raise ServiceUnknown
            tx.services.disconnect(service)

    @request(lambda *_: "make_report")
    def make_report(self, tenant_id: str, region: str, report_id: str) -> None:
        with self.worker.tenant_tx(tenant_id) as tx:
            assert tx.reports.get(report_id) is not None
            tx.reports.state(report_id, StatedRow(a_standing(), datetime.now(UTC), 1))
            tx.reports.store(report_id, {form: f"{form} of {region}".encode() for form in ReportFormat})

    def _issue(self, tx, tenant_id: str, service: str, request_id: str) -> None:
        leaf = self.authority.leaf(tenant_id, service, tx.services.requested(request_id).csr_pem)
        tx.services.record_leaf(
            ServiceCertificateRow(
                f"{leaf.serial_number:x}",
                service,
                tx.services.generation(service) + 1,
                request_id,
                pem(leaf),
                leaf.not_valid_before_utc,
                leaf.not_valid_after_utc,
                self.authority.row().serial,
            )
        )
