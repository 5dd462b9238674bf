"""Every action of the pages on a real database: who may do it, and its audit records."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest

from compliance.reports.periods import named
from core.errors.platform import TemporalUnavailable
from core.errors.tenants import PermissionDenied, SessionEnded, TenantUnknown
from core.tenants.approvals import Action, ApprovalState, VoteChoice
from core.tenants.lifecycle import State
from core.tenants.policy import TenantPolicy
from core.tenants.roles import PersonRole
from dashboard.approvals import actions as approval_actions
from dashboard.certificates import actions as authority_actions
from dashboard.offboarding import actions as leaving_actions
from dashboard.page_context import PageContext
from dashboard.reports import actions as report_actions
from dashboard.root_keys import actions as root_key_actions
from dashboard.rotation import actions as rotation_actions
from dashboard.rotation import view as rotation
from dashboard.services import actions as join_actions
from dashboard.services import actions as protection_actions
from dashboard.services import actions as service_actions
from dashboard.tenants import actions as standing_actions
from openkcm.contract.audit_events import AuditName
from openkcm.contract.services import ServiceKind
from tests.dashboard.scene import ACME, Scene
from tests.database.builders import a_protected_field
from workflows.client.updates import UpdateRejected

ADMINISTRATOR, KEYS, AUDITOR, OPERATOR = PersonRole
MANAGE_KEYS, MANAGE_SERVICES, VIEW_AUDIT = {ADMINISTRATOR, KEYS}, {ADMINISTRATOR}, {ADMINISTRATOR, AUDITOR}
APPROVAL = "a" * 32
ORDERS = rotation.of_service("orders")


def a_root_key_wish(context: PageContext) -> root_key_actions.RootKeyChangeRequest:
    place = {"provider": "openbao", "address": "https://bao.acme.example:8200", "mount": "transit", "key": "acme"}
    return root_key_actions.wishes(context, place, {"token": "hvs.secret"})[0]


@dataclass(frozen=True)
class Act:
    """An action, its audit name, the roles that may do it, its initial state and its workflow request."""

    name: AuditName
    do: Callable[[PageContext], object]
    roles: set[PersonRole]
    asks: str = ""
    before: State = State.ACTIVE

    def __str__(self) -> str:
        return self.asks.partition(" ")[0] or self.name


ACTS = (
    Act(AuditName.SUSPEND_REQUESTED, standing_actions.suspend, MANAGE_KEYS, "suspend"),
    Act(AuditName.RESUME_REQUESTED, standing_actions.resume, MANAGE_KEYS, "resume", State.SUSPENDED),
    Act(AuditName.LOCK_REQUESTED, standing_actions.lock, MANAGE_KEYS, "lock"),
    Act(AuditName.UNLOCK_REQUESTED, standing_actions.unlock, MANAGE_KEYS, "unlock", State.LOCKED),
    Act(
        AuditName.ROTATE_REQUESTED,
        lambda context: rotation_actions.rotate(context, rotation.compromised(ORDERS)),
        MANAGE_KEYS,
        "rotate one orders False True",
    ),
    Act(
        AuditName.RETIRE_REQUESTED,
        lambda context: rotation_actions.retire(context, "orders", 1),
        MANAGE_KEYS,
        "retire orders 1",
    ),
    Act(AuditName.OFFBOARD_REQUESTED, leaving_actions.leave, MANAGE_KEYS, f"offboard {ACME} customer"),
    Act(AuditName.RESTORE_REQUESTED, leaving_actions.restore, MANAGE_KEYS, "restore", State.LEAVING),
    Act(
        AuditName.ROOT_KEY_PREFLIGHT_REQUESTED,
        lambda context: root_key_actions.check(context, a_root_key_wish(context)),
        MANAGE_KEYS,
        "preflight",
    ),
    Act(
        AuditName.ROOT_KEY_CHANGE_REQUESTED,
        lambda context: root_key_actions.change(context, a_root_key_wish(context)),
        MANAGE_KEYS,
        "change",
    ),
    Act(
        AuditName.POLICY_CHANGE_REQUESTED,
        lambda context: approval_actions.change_policy(context, TenantPolicy(tenant_key_days=100)),
        MANAGE_KEYS,
        "policy",
    ),
    Act(
        AuditName.APPROVAL_ASKED, lambda context: standing_actions.ask_to_lock(context, "drill"), MANAGE_KEYS, "propose"
    ),
    Act(
        AuditName.APPROVAL_VOTED,
        lambda context: approval_actions.decide(context, APPROVAL, VoteChoice.APPROVE),
        MANAGE_KEYS,
        f"decide {APPROVAL}",
    ),
    Act(AuditName.AUTHORITY_ROLL_REQUESTED, authority_actions.roll, MANAGE_SERVICES, "roll"),
    Act(
        AuditName.SERVICE_CONNECT_REQUESTED,
        lambda context: service_actions.connect(
            context, service_actions.wish("carts", ServiceKind.MONGODB, "/etc/openkcm/carts", None)
        ),
        MANAGE_SERVICES,
        "connect carts",
    ),
    Act(
        AuditName.SERVICE_RENEW_REQUESTED,
        lambda context: service_actions.renew(context, "orders"),
        MANAGE_SERVICES,
        "renew orders in eu-west-1",
    ),
    Act(
        AuditName.SERVICE_DISCONNECT_REQUESTED,
        lambda context: service_actions.disconnect(context, "orders"),
        MANAGE_SERVICES,
        "disconnect orders in eu-west-1",
    ),
    Act(
        AuditName.REPORT_REQUESTED,
        lambda context: report_actions.make(context, "b" * 32, named("2026-01")),
        VIEW_AUDIT,
        "make_report",
    ),
)
# The database records these under other names, without a workflow request.
STORED = (
    Act(
        AuditName.JOIN_TOKEN_REQUESTED,
        lambda context: join_actions.make_token(context, "orders", ServiceKind.MONGODB, timedelta(hours=1)),
        MANAGE_SERVICES,
    ),
    *(
        Act(
            AuditName.PROTECTION_CHANGE_REQUESTED,
            lambda context, act=act: act(context, "orders", a_protected_field()),
            MANAGE_SERVICES,
        )
        for act in (protection_actions.protect, protection_actions.unprotect)
    ),
)


def prepare(scene: Scene, state: State = State.ACTIVE) -> Scene:
    """Create a tenant with a service, and a pending request of a second person."""
    scene.tenant(state)
    if state is State.ACTIVE:
        scene.service("orders", ServiceKind.MONGODB)
        scene.wants_two_for(Action.LOCK)
        other = scene.page_context(name="Bob").person
        with scene.dashboard.tenant_tx(ACME) as tx:
            tx.approvals.ask(APPROVAL, Action.LOCK, {}, other, "drill")
        scene.gateway.propose(ACME, APPROVAL)
        scene.wants_two_for()
    scene.gateway.asked.clear()
    return scene


def requested(scene: Scene) -> list[tuple[str, str, str]]:
    """Return name, outcome and code of each record of a request."""
    return [
        (one["name"], one["outcome"], one["details"].get("code", ""))
        for one in scene.records()
        if one["name"].endswith(("requested", "submitted")) and one["actor"].startswith("ada")
    ]


@pytest.mark.parametrize("act", ACTS, ids=str)
def test_action_asks_the_workflow_and_is_recorded_before_and_after(scene: Scene, act: Act) -> None:
    prepare(scene, act.before)
    if act.name is AuditName.RETIRE_REQUESTED:
        rotation_actions.rotate(scene.page_context(name="Bob"), rotation.EVERYTHING)
    if act.name is AuditName.APPROVAL_ASKED:
        scene.wants_two_for(Action.LOCK)
        approval_actions.decide(scene.page_context(name="Bob"), APPROVAL, VoteChoice.WITHDRAW)
    act.do(scene.page_context(ACME, max(act.roles)))
    assert scene.gateway.asked[-1].startswith(act.asks)
    assert requested(scene) == [(act.name, "intended", ""), (act.name, "success", "")]


@pytest.mark.parametrize("role", list(PersonRole))
def test_action_is_refused_to_other_roles_and_only_the_refusal_is_recorded(scene: Scene, role: PersonRole) -> None:
    prepare(scene)
    context = scene.page_context(ACME, role)
    others = [act for act in (*ACTS, *STORED) if role not in act.roles]
    for act in others:
        with pytest.raises(PermissionDenied):
            act.do(context)
    assert (scene.gateway.asked, requested(scene)) == ([], [])
    refused = [one for one in scene.records() if one["name"] == AuditName.ACTION_REFUSED]
    assert [(one["outcome"], one["details"]["action"]) for one in refused] == [("refused", act.name) for act in others]


def test_action_after_the_end_of_the_session_changes_nothing(scene: Scene) -> None:
    prepare(scene)
    ended = replace(scene.page_context(), present=lambda: False)
    before = scene.records()
    for act in (*ACTS, *STORED):
        with pytest.raises(SessionEnded):
            act.do(ended)
    assert (scene.gateway.asked, scene.records()) == ([], before)


def test_action_that_fails_is_recorded_with_the_code(scene: Scene) -> None:
    prepare(scene)
    scene.gateway.fails = TemporalUnavailable()
    for act in ACTS:
        with pytest.raises(TemporalUnavailable):
            act.do(scene.page_context())
    ends = (("intended", ""), ("failure", "temporal_unavailable"))
    failed = [(act.name, *end) for act in ACTS for end in ends]
    assert requested(scene) == failed
    scene.gateway.fails = None
    standing_actions.lock(scene.page_context())
    with pytest.raises(UpdateRejected):
        standing_actions.suspend(scene.page_context())
    assert requested(scene)[-1] == (AuditName.SUSPEND_REQUESTED, "failure", "invalid_transition")


def test_action_on_a_tenant_that_does_not_exist_is_refused(scene: Scene) -> None:
    names = {
        AuditName.LOCK_REQUESTED,
        AuditName.OFFBOARD_REQUESTED,
        AuditName.ROOT_KEY_PREFLIGHT_REQUESTED,
        AuditName.SERVICE_CONNECT_REQUESTED,
        AuditName.SERVICE_RENEW_REQUESTED,
        AuditName.REPORT_REQUESTED,
    }
    for act in ACTS:
        if act.name in names:
            with pytest.raises(TenantUnknown):
                act.do(scene.page_context())
    assert scene.gateway.asked == []


def test_four_eyes_refuse_one_person_and_the_request_for_a_second_changes_nothing(scene: Scene) -> None:
    scene.tenant(State.ACTIVE)
    scene.service("orders", ServiceKind.MONGODB)
    scene.held_key()
    scene.wants_two_for(
        Action.COMPROMISE, Action.OFFBOARD, Action.RETIRE_KEY_VERSION, Action.LOCK, Action.ROOT_KEY_TO_PLATFORM
    )
    context = scene.page_context()
    four_eyes = {
        AuditName.LOCK_REQUESTED,
        AuditName.OFFBOARD_REQUESTED,
        AuditName.ROTATE_REQUESTED,
        AuditName.RETIRE_REQUESTED,
    }
    for act in ACTS:
        if act.name in four_eyes:
            with pytest.raises(UpdateRejected):
                act.do(context)
    [wish, *_] = root_key_actions.wishes(context, {"provider": "platform"}, {})
    asked = [
        rotation_actions.ask_to_compromise(context, rotation.compromised(ORDERS), "leak"),
        rotation_actions.ask_to_retire(context, "orders", 1, "unused"),
        leaving_actions.ask_to_leave(context, "contract ended"),
        standing_actions.ask_to_lock(context, "drill"),
        root_key_actions.ask_for_platform(context, wish, "cost"),
    ]
    assert [(one.action, dict(one.argument)) for one in asked] == [
        (Action.COMPROMISE, {"services": "one", "service": "orders", "tenant_key": False}),
        (Action.RETIRE_KEY_VERSION, {"service": "orders", "version": 1}),
        (Action.OFFBOARD, {"now": False}),
        (Action.LOCK, {}),
        (Action.ROOT_KEY_TO_PLATFORM, {"request_id": wish.request_id}),
    ]
    assert {one.state for one in asked} == {ApprovalState.PENDING}
    with scene.worker.tenant_tx(ACME) as tx:
        assert tx.root_keys.requested(wish.request_id).place == wish.place
        [key] = tx.services.keys()
    assert key.version == 1
    assert scene.standing()[0] is State.ACTIVE
