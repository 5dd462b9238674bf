"""The contract of each repository of a transaction."""

import hashlib
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.errors.keys import RootKeyRequestUnknown
from core.errors.platform import ConflictingResource, DatabaseRefused
from core.errors.tenants import InvalidTransition, TenantUnknown
from core.keys.root_keys import PlatformKeyRef
from core.names import l2_key
from core.notifications import NotificationKind
from core.tenants.lifecycle import TRANSITIONS, State, Transition
from core.tenants.provisioning import EventKind, Step, StepState
from database.connection.database import Database
from database.postgres.access import pads, sign
from database.provisioning import RouteRow
from database.root_keys import RootKeyRequestRow
from tests.database.builders import (
    NOW,
    a_result,
    an_announcement,
    an_event,
)
from tests.database.fixtures import Field
from tests.database.templates import filled_template, two_tenants

template = filled_template(two_tenants(services=False))


def test_repeated_request_keeps_the_first_values_of_a_tenant(worker: Database) -> None:
    with worker.tenant_tx("new") as tx:
        first = tx.tenants.request(an_event("new"))
        again = tx.tenants.request(an_event("new", "event-2", region="us-east-1"))
    assert first == again
    assert (first.state, first.region, first.root_key_mode) == (State.REQUESTED, "eu-west-1", "platform")


def test_unknown_tenant_cannot_be_locked_or_moved(worker: Database) -> None:
    with worker.tenant_tx("new") as tx:
        assert tx.tenants.get() is None
        for attempt in (tx.tenants.lock, lambda: tx.tenants.move(Transition.PROVISION)):
            with pytest.raises(TenantUnknown):
                attempt()


def test_activation_sets_ready_at_once(worker: Database) -> None:
    with worker.tenant_tx("acme") as tx:
        assert tx.tenants.move(Transition.ACTIVATE) is State.ACTIVE
        ready = tx.tenants.lock().ready_at
        assert tx.tenants.move(Transition.ACTIVATE) is State.ACTIVE
        tx.tenants.move(Transition.SUSPEND)
        tx.tenants.move(Transition.RESUME)
        assert ready is not None
        assert tx.tenants.lock().ready_at == ready


def test_invalid_transition_changes_nothing(worker: Database) -> None:
    with worker.tenant_tx("new") as tx:
        tx.tenants.request(an_event("new"))
        with pytest.raises(InvalidTransition):
            tx.tenants.move(Transition.ACTIVATE)
        assert tx.tenants.lock().state is State.REQUESTED


def test_unlock_requires_the_state_to_return_to(worker: Database) -> None:
    with worker.tenant_tx("acme") as tx:
        tx.tenants.move(Transition.ACTIVATE)
        tx.tenants.move(Transition.LOCK)
        with pytest.raises(InvalidTransition):
            tx.tenants.move(Transition.UNLOCK)
        assert tx.tenants.move(Transition.UNLOCK, State.SUSPENDED) is State.SUSPENDED
        assert tx.tenants.move(Transition.UNLOCK, State.SUSPENDED) is State.SUSPENDED


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(moves=st.lists(st.sampled_from(Transition), max_size=8), back_to=st.sampled_from(State))
def test_states_change_only_by_the_transition_table(worker: Database, moves: list[Transition], back_to: State) -> None:
    with worker.tenant_tx("new") as tx:
        state = tx.tenants.request(an_event("new")).state
        for move in moves:
            try:
                after = tx.tenants.move(move, back_to if move in {Transition.UNLOCK, Transition.RESTORE} else None)
            except InvalidTransition:
                after = state
            assert after is state or after in TRANSITIONS[state, move]
            assert tx.tenants.lock().state is after
            state = after


def test_slo_breach_is_recorded_once(worker: Database) -> None:
    with worker.tenant_tx("acme") as tx:
        assert tx.tenants.break_promise()
        assert not tx.tenants.break_promise()


def test_steps_record_retries_failures_and_completion(worker: Database) -> None:
    began = datetime.now(UTC) - timedelta(seconds=1)
    with worker.tenant_tx("acme") as tx:
        tx.steps.plan("provision-2", [*Step])
        tx.steps.retry("provision-2", Step.CREATE_KEYS, "vault_unavailable")
        tx.steps.finish("provision-2", Step.CREATE_KEYS, began)
        tx.steps.finish("provision-2", Step.CREATE_KEYS, began + timedelta(hours=1))
        tx.steps.retry("provision-2", Step.CREATE_KEYS, "too late")
        tx.steps.fail("provision-2", Step.CREATE_AUTHORITY, "vault_refused")
        tx.steps.plan("provision-2", [*Step])
        rows = tx.steps.latest()
    assert [row.step for row in rows] == [*Step]
    keys, authority, waiting = rows[1], rows[2], rows[3]
    assert (keys.state, keys.attempts, keys.problem, keys.started_at) == (StepState.DONE, 1, None, began)
    assert keys.finished_at is not None
    assert (authority.state, authority.problem) == (StepState.FAILED, "vault_refused")
    assert (waiting.state, waiting.started_at) == (StepState.PENDING, None)


def test_unplanned_step_cannot_be_finished(worker: Database) -> None:
    with pytest.raises(DatabaseRefused, match="not planned"), worker.tenant_tx("acme") as tx:
        tx.steps.finish("nothing", Step.ACTIVATE, NOW)


def test_key_cannot_be_recorded_with_other_values(worker: Database) -> None:
    with worker.tenant_tx("acme") as tx:
        tx.keys.record(l2_key("acme"), "L2", 1)
        with pytest.raises(ConflictingResource):
            tx.keys.record(l2_key("acme"), "L2", 2)
        assert [(key.name, key.kind, key.version) for key in tx.keys.all()] == [
            (l2_key("acme"), "L2", 1),
            ("ca-acme", "CA", 1),
        ]


def test_tenant_has_one_route_that_can_be_removed(worker: Database) -> None:
    moved = RouteRow(l2_key("acme"), "cd" * 32, "us-east-1")
    with worker.tenant_tx("acme") as tx:
        tx.routes.publish(moved)
        assert tx.routes.get() == moved
        assert tx.routes.withdraw()
        assert not tx.routes.withdraw()
        assert tx.routes.get() is None


def test_newest_run_of_isolation_checks_is_separate_from_older_ones(worker: Database) -> None:
    with worker.tenant_tx("acme") as tx:
        tx.boundaries.record("gate", [a_result("there"), a_result("there", outcome="breached")])
        tx.boundaries.record("gate", [a_result("back")])
        assert [(found.name, found.outcome) for found in tx.boundaries.latest()] == [
            ("there", "held"),
            ("there", "breached"),
            ("back", "held"),
        ]
    with worker.tenant_tx("acme") as tx:
        run = tx.boundaries.latest_run()
        assert list(run.results) == list(tx.boundaries.latest())
        tx.boundaries.record("gate", [a_result("again")])
    with worker.tenant_tx("acme") as tx:
        later = tx.boundaries.latest_run()
    assert later.recorded_at > run.recorded_at
    assert [found.name for found in later.results] == ["again"]


def test_unchecked_tenant_has_no_run(worker: Database) -> None:
    with worker.tenant_tx("new") as tx:
        assert tx.boundaries.latest_run() is None
        assert list(tx.boundaries.latest()) == []


def test_event_is_accepted_once(field: Field) -> None:
    marketplace = field.open("marketplace")
    with marketplace.tenant_tx("new") as tx:
        assert tx.tenants.request(an_event("new")).state is State.REQUESTED
        assert tx.inbox.accept(an_event("new"))
        assert not tx.inbox.accept(an_event("new", kind=EventKind.SERVICE_DISABLED))


def test_notification_is_stored_and_sent_once(worker: Database) -> None:
    with worker.tenant_tx("new") as tx:
        tx.tenants.request(an_event("new"))
        tx.outbox.add(an_announcement("new"))
        tx.outbox.add(an_announcement("new", body="another"))
        assert tx.outbox.unsent() == [an_announcement("new")]
        tx.outbox.mark_sent("message-1")
        [(_, sent)] = tx.outbox.all()
        tx.outbox.mark_sent("message-1")
        assert tx.outbox.unsent() == []
        assert tx.outbox.all() == [(an_announcement("new"), sent)]
    assert sent is not None


def test_marketplace_reads_only_the_ready_notification(field: Field, worker: Database) -> None:
    with worker.tenant_tx("acme") as tx:
        tx.outbox.add(an_announcement("acme", "message-2", kind=NotificationKind.FAILED))
    with field.open("marketplace").tenant_tx("acme") as tx:
        assert [message.kind for message, _ in tx.outbox.all()] == [NotificationKind.READY]


@given(key=st.binary(min_size=32, max_size=64), tenant=st.text("abc-1", min_size=3, max_size=40))
def test_context_signature_matches_the_hmac_of_the_database(key: bytes, tenant: str) -> None:
    inner, outer = pads(key)
    claim = f"{tenant}|7|1764327600.123456".encode()
    assert hashlib.sha256(outer + hashlib.sha256(inner + claim).digest()).hexdigest() == sign(
        key, tenant, "7|1764327600.123456"
    )


_JUNK = st.text("|0123456789abcdef*'\\-x \n", max_size=60)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tenant=_JUNK, context=_JUNK)
def test_malformed_context_is_rejected_without_an_error(worker: Database, tenant: str, context: str) -> None:
    with worker.raw_tx("acme") as connection:
        connection.execute(
            "select set_config('app.tenant_id', %s, true), set_config('app.ctx', %s, true)", [tenant, context]
        )
        assert connection.execute("select okcm.ctx_ok()").fetchone() == (False,)


def test_root_key_request_is_unknown_to_another_tenant(worker: Database, field: Field) -> None:
    request = RootKeyRequestRow("0" * 32, PlatformKeyRef(), "sealed")
    with field.open("operator").tenant_tx("acme") as tx:
        tx.root_keys.request(request)
        assert tx.root_keys.problems(request.request_id) is None
    with worker.tenant_tx("beta") as tx:
        for read in (tx.root_keys.problems, tx.root_keys.requested):
            with pytest.raises(RootKeyRequestUnknown):
                read(request.request_id)
