"""Tenants in every state that the pages distinguish, on the dashboard alone; their users; and measured processes."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from uuid import uuid4

from compliance.reports.periods import named
from core.keys.rotation import RotationScope
from core.notifications.targets import GROUPS, TargetKind
from core.tenants.approvals import Action
from core.tenants.lifecycle import State
from core.tenants.policy import TenantPolicy
from core.tenants.roles import PersonRole
from dashboard.approvals import actions as approval_actions
from dashboard.notifications import actions as notification_actions
from dashboard.reports import actions as report_actions
from dashboard.tenants import actions as standing_actions
from database.rotation import RotationRequest
from openkcm.contract.services import ServiceKind
from tests.dashboard.scene import ACME, Scene
from tests.e2e.dashboard.harness.dashboard_pages import KAI
from tests.e2e.dashboard.harness.sign_ons import subject

BUSY, EMPTY, LOCKED, WAITING = ACME, "empty-corp-10001", "locked-corp-10002", "waiting-corp-10003"
HELD, SUSPENDED, LEAVING, CLOSED = "held-corp-10004", "suspended-corp-10005", "leaving-corp-10006", "closed-corp-10007"
STARTING, FAILED, ALSO_FAILED = "starting-corp-10008", "failed-corp-10009", "failed-corp-10010"
REASON = "suspicious reads at 17:14"
_MEASURED_SECONDS = 1.0


def add_tenants(scene: Scene) -> None:
    """Create all tenants; BUSY has services of each kind, an old key version, two targets and two reports."""
    for tenant_id, state in (
        (BUSY, State.ACTIVE),
        (EMPTY, State.ACTIVE),
        (LOCKED, State.ACTIVE),
        (WAITING, State.ACTIVE),
        (HELD, State.ACTIVE),
        (SUSPENDED, State.SUSPENDED),
        (LEAVING, State.LEAVING),
        (CLOSED, State.OFFBOARDED),
        (STARTING, State.PROVISIONING),
        (FAILED, State.FAILED),
        (ALSO_FAILED, State.FAILED),
    ):
        scene.tenant(state, tenant_id, f"{tenant_id.split('-')[0].capitalize()} Corporation")
    _fill(scene)
    for tenant_id in (LOCKED, HELD):
        for number in range(2):
            scene.service(f"orders-{number}", ServiceKind.MONGODB, tenant_id, uses=20)
    standing_actions.lock(scene.page_context(LOCKED, name="Kai"))
    scene.held_key("disabled", tenant_id=HELD)
    _ask(scene)


def _fill(scene: Scene) -> None:
    for name, kind in zip(("orders", "ledger", "shop-db"), ServiceKind, strict=False):
        scene.service(name, kind, uses=20)
    scene.gateway.rotate_keys(BUSY, RotationRequest(tenant_key=True, services=RotationScope.ALL))
    with scene.field.open("marketplace", max_size=1).tenant_tx(BUSY) as tx:
        tx.enrolments.discover("carts", ServiceKind.MONGODB)
    context = scene.page_context(BUSY)
    every = [kind for kinds in GROUPS.values() for kind in kinds]
    for label in ("Security team", "On call"):
        notification_actions.add(context, TargetKind.WEBHOOK, label, f"https://{uuid4().hex}.example/", every)
    for month in ("2026-01", "2026-02"):
        report_actions.make(context, uuid4().hex, named(month))


def _ask(scene: Scene) -> None:
    """Have Kai ask for two actions of WAITING that another person must approve."""
    scene.service("orders", ServiceKind.MONGODB, WAITING, uses=20)
    scene.wants_two_for(*Action, tenant_id=WAITING)
    kai = scene.page_context(WAITING, PersonRole.KEY_ADMINISTRATOR, name=KAI, subject=subject(WAITING, KAI))
    standing_actions.ask_to_lock(kai, REASON)
    approval_actions.ask_for(kai, Action.CHANGE_POLICY, TenantPolicy().as_argument(), REASON)


@contextmanager
def measured(scene: Scene) -> Iterator[None]:
    """Report running processes every second during the block, so that badges can be green."""
    ended = Event()

    def report() -> None:
        while not ended.wait(_MEASURED_SECONDS):
            scene.measured()

    reporting = Thread(target=report)
    reporting.start()
    try:
        yield
    finally:
        ended.set()
        reporting.join()
