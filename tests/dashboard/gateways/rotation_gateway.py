"""The effects of rotating, retiring, offboarding and restoring on the rows of a real database."""

from datetime import timedelta

from core.errors.keys import KeyVersionInUse
from core.errors.tenants import ApprovalRequired, TenantNotOperational
from core.keys.rotation import RotationPhase
from core.messages.keys import RotateRequest
from core.messages.tenants import LeaveReason, OffboardRequest
from core.names import l2_key
from core.tenants.approvals import Action
from core.tenants.lifecycle import DECRYPTS
from core.tenants.policy import TenantPolicy
from database.connection.database import Database
from database.keys import ServiceKeyRow
from database.rotation import RewrappedRow, RotationRequest
from tests.dashboard.gateways.approval_gateway import request
from workflows.client.updates import UpdateRejected

GRACE = timedelta(days=30)


class RotationRequests:
    """`stops` is the error code of the next rotation, which then fails before it re-wraps anything."""

    def __init__(self, worker: Database) -> None:
        self.worker = worker
        self.stops: str | None = None
        self.rotations: list[RotateRequest] = []
        self.left: list[OffboardRequest] = []

    @request(lambda _, asked: f"rotate {asked.services} {asked.service} {asked.tenant_key} {asked.compromised}")
    def rotate_keys(self, tenant_id: str, asked: RotateRequest) -> None:
        self.rotations.append(asked)
        wanted = RotationRequest(asked.tenant_key, asked.services, asked.service, asked.compromised)
        with self.worker.tenant_tx(tenant_id) as tx:
            tenant, l2 = tx.tenants.lock(), tx.keys.get(l2_key(tenant_id))
            number = len(tx.rotations.all()) + 1
            assert l2 is not None
            if tenant.state not in DECRYPTS:
                raise TenantNotOperational(tenant.state)
            if asked.compromised and tx.policy.get().wants_two_for(Action.COMPROMISE):
                raise ApprovalRequired(Action.COMPROMISE)
            newest = l2.version + asked.tenant_key
            tx.rotations.begin(number, wanted, l2.version)
            if asked.tenant_key:
                tx.rotations.rotated(number, newest)
            for service, version in tx.rotations.unprepared(number, TenantPolicy()):
                wrapped = f"version {version} of {service}".encode()
                row = ServiceKeyRow(service, version, l2.name, "platform", "root-eu-west-1", wrapped, l2_version=newest)
                tx.rotations.prepare(number, row)
            tx.rotations.activate(number)
            tx.rotations.enter(number, RotationPhase.REWRAP)
            if self.stops is None:
                rows = [RewrappedRow(row, b"rewrapped", newest) for row in tx.rotations.outdated(100)]
                tx.rotations.rewrap(number, rows)
                assert tx.rotations.retire_tenant_key(number)
            tx.rotations.end(number, self.stops)
        if self.stops is not None:
            raise UpdateRejected(self.stops, "the rotation was not completed", "ask again")

    @request(lambda _, service, version: f"retire {service} {version}")
    def retire_service_key(self, tenant_id: str, service: str, version: int) -> None:
        with self.worker.tenant_tx(tenant_id) as tx:
            if tx.policy.get().wants_two_for(Action.RETIRE_KEY_VERSION):
                raise ApprovalRequired(Action.RETIRE_KEY_VERSION)
            if left := tx.rotations.destroy(service, version):
                raise KeyVersionInUse(service, version, f"objects encrypted under it: {left}")

    @request(lambda tenant_id, leaving: f"offboard {tenant_id} {leaving.reason}")
    def offboard(self, tenant_id: str, leaving: OffboardRequest) -> None:
        self.left.append(leaving)
        assert not leaving.now or leaving.reason is LeaveReason.OPERATOR, "a customer always has a grace period"
        seconds = GRACE.total_seconds() if leaving.grace_seconds is None else leaving.grace_seconds
        with self.worker.tenant_tx(tenant_id) as tx:
            if tx.policy.get().wants_two_for(Action.OFFBOARD):
                raise ApprovalRequired(Action.OFFBOARD)
            tx.leaving.begin(timedelta(seconds=0 if leaving.now else seconds))

    @request(lambda tenant_id: f"restore {tenant_id}")
    def restore(self, tenant_id: str) -> None:
        with self.worker.tenant_tx(tenant_id) as tx:
            tx.leaving.restore()
