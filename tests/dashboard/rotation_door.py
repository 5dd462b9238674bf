"""What rotating, retiring, rolling, leaving and restoring come to, on the rows of a real database."""

from datetime import timedelta

from database.connection import Database
from database.interfaces import AuthorityRow, ServiceKeyRow, WantedRotation
from tenancy.approval_errors import ApprovalRequired
from tenancy.approvals import Action
from tenancy.errors import OpenKcmError, TenantClosed
from tenancy.ids import l2_key
from tenancy.leaving_messages import LeaveRequest
from tenancy.lifecycle import DECRYPTS
from tenancy.policy import TenantPolicy
from tenancy.rotation import Stage
from tenancy.rotation_errors import KeyVersionInUse
from tenancy.rotation_messages import RotateRequest
from workflows.gateway import UpdateRefused


class RotationDoor:
    """`stops` is the code with which the next rotation ends, at the stage in which everything is wrapped anew."""

    def __init__(self, worker: Database) -> None:
        self.worker = worker
        self.stops: str | None = None
        self.rotations = 0

    def rotate(self, tenant_id: str, request: RotateRequest) -> None:
        self.rotations += 1
        number = self.rotations
        wanted = WantedRotation(request.tenant_key, request.services, request.service, request.compromised)
        with self.worker.tenant_tx(tenant_id) as tx:
            tenant, l2 = tx.tenants.lock(), tx.keys.get(l2_key(tenant_id))
            assert l2 is not None
            if tenant.state not in DECRYPTS:
                refuse(TenantClosed(tenant.state))
            if request.compromised and tx.policy.get().wants_two_for(Action.COMPROMISE):
                refuse(ApprovalRequired(Action.COMPROMISE))
            tx.rotations.begin(number, wanted, l2.version)
            if request.tenant_key:
                tx.rotations.rotated(number, l2.version + 1)
            for service, version in tx.rotations.unprepared(number, TenantPolicy()):
                wrapped = f"version {version} of {service}".encode()
                newest = l2.version + request.tenant_key
                row = ServiceKeyRow(service, version, l2.name, "platform", "root-eu-west-1", wrapped, l2_version=newest)
                tx.rotations.prepare(number, row)
            tx.rotations.activate(number)
            tx.rotations.enter(number, Stage.REWRAP)
            tx.rotations.end(number, self.stops)
        if self.stops is not None:
            raise UpdateRefused(self.stops, "the rotation did not get to its end", "ask again")

    def retire(self, tenant_id: str, service: str, version: int) -> None:
        with self.worker.tenant_tx(tenant_id) as tx:
            if tx.policy.get().wants_two_for(Action.RETIRE_KEY_VERSION):
                refuse(ApprovalRequired(Action.RETIRE_KEY_VERSION))
            try:
                left = tx.rotations.destroy(service, version)
            except OpenKcmError as refused:
                refuse(refused)
            if left:
                refuse(KeyVersionInUse(service, version, f"{left} objects are sealed under it"))

    def roll(self, tenant_id: str, authority: AuthorityRow) -> None:
        with self.worker.tenant_tx(tenant_id) as tx:
            tx.certificates.record_authority(authority)
            tx.certificates.activate(authority.serial)

    def leave(self, tenant_id: str, request: LeaveRequest, grace: timedelta) -> None:
        assert not request.now
        with self.worker.tenant_tx(tenant_id) as tx:
            if tx.policy.get().wants_two_for(Action.OFFBOARD):
                refuse(ApprovalRequired(Action.OFFBOARD))
            tx.leaving.begin(grace)

    def come_back(self, tenant_id: str) -> None:
        with self.worker.tenant_tx(tenant_id) as tx:
            try:
                tx.leaving.restore()
            except OpenKcmError as refused:
                refuse(refused)


def refuse(refused: OpenKcmError) -> None:
    raise UpdateRefused(refused.code, refused.message, refused.hint)
