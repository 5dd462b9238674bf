"""Requests and votes as rows: which role may write them, and what PostgreSQL rejects for every role."""

from datetime import UTC, datetime, timedelta

import pytest

from core.errors.platform import DatabaseRefused
from core.tenants.approvals import Action, Approval, ApprovalState, VoteChoice
from core.tenants.policy import TenantPolicy
from core.tenants.roles import Person, PersonRole
from database.connection.database import Database
from tests.database.builders import a_person, a_provisioned_tenant
from tests.database.fixtures import Field
from tests.database.templates import filled_template

TENANT, OTHER = "acme", "beta"
ID = "1" * 32
DAY = timedelta(hours=24)
REASON = "the auditor's finding 7"


class Rows:
    def __init__(self, field: Field) -> None:
        self.field, self.worker, self.dashboard = field, field.open("worker"), field.open("dashboard")

    def sign_on(self, subject: str, number: str, tenant_id: str = TENANT) -> None:
        with self.dashboard.tenant_tx(tenant_id) as tx:
            tx.sessions.begin(number * 64, subject, datetime.now(UTC) + timedelta(hours=1))

    def ask(self, subject: str = "ada", approval_id: str = ID, tenant_id: str = TENANT) -> None:
        with self.dashboard.tenant_tx(tenant_id) as tx:
            person, argument = a_person(TENANT, subject), TenantPolicy().as_argument()
            tx.approvals.ask(approval_id, Action.CHANGE_POLICY, argument, person, REASON)

    def vote(self, person: Person, choice: VoteChoice = VoteChoice.APPROVE, tenant_id: str = TENANT) -> bool:
        with self.dashboard.tenant_tx(tenant_id) as tx:
            return tx.approvals.vote(ID, person, choice, "agreed")

    def settle(self, state: ApprovalState) -> None:
        with self.worker.tenant_tx(TENANT) as tx:
            votes = tx.approvals.votes(ID)
            tx.approvals.settle(ID, state, votes[0] if votes else None)

    def get(self, database: Database | None = None) -> Approval:
        with (database or self.worker).tenant_tx(TENANT) as tx:
            found = tx.approvals.get(ID)
        assert found is not None
        return found

    def sql(self, role: str, statement: str, tenant_id: str = TENANT) -> int:
        with self.field.open(role, max_size=1).raw_tx(tenant_id) as connection:
            return connection.execute(statement.encode()).rowcount


def fill(field: Field) -> None:
    rows = Rows(field)
    for tenant_id in (TENANT, OTHER):
        a_provisioned_tenant(rows.worker, tenant_id)
    rows.sign_on("ada", "1")
    rows.sign_on("kai", "2")


template = filled_template(fill)


@pytest.fixture
def rows(field: Field) -> Rows:
    return Rows(field)


KAI = a_person(TENANT, "kai", PersonRole.KEY_ADMINISTRATOR)


def test_request_is_stored_once_and_read_unchanged(rows: Rows) -> None:
    rows.ask()
    rows.ask("kai")
    found = rows.get()
    assert (found.action, found.argument) == (Action.CHANGE_POLICY, TenantPolicy().as_argument())
    assert (found.requested_by, found.requested_name) == ("ada", "Ada")
    assert (found.state, found.expires_at) == (ApprovalState.ASKED, None)
    assert (found.request_reason, found.decision_reason) == (REASON, None)
    for role in ("operator", "dashboard"):
        assert rows.get(rows.field.open(role)) == found


def test_expiry_counts_from_the_first_admission(rows: Rows) -> None:
    rows.ask()
    with rows.worker.tenant_tx(TENANT) as tx:
        now = tx.approvals.now()
        tx.approvals.admit(ID, DAY)
        [waiting] = tx.approvals.pending()
        tx.approvals.admit(ID, 3 * DAY)
    assert rows.get() == waiting
    assert waiting.expires_at is not None
    assert abs(waiting.expires_at - now - DAY) < timedelta(minutes=1)


def test_each_person_votes_once_and_votes_are_ordered(rows: Rows) -> None:
    rows.ask()
    assert rows.vote(KAI)
    assert not rows.vote(KAI, VoteChoice.DECLINE)
    assert rows.vote(a_person(TENANT), VoteChoice.WITHDRAW)
    with rows.worker.tenant_tx(TENANT) as tx:
        first, second = tx.approvals.votes(ID)
    assert (first.subject, first.roles, first.choice) == ("kai", KAI.roles, VoteChoice.APPROVE)
    assert (second.subject, second.choice, second.reason) == ("ada", VoteChoice.WITHDRAW, "agreed")


def test_outcome_keeps_the_deciding_person_and_one_operation(rows: Rows) -> None:
    rows.ask()
    rows.vote(KAI)
    with rows.worker.tenant_tx(TENANT) as tx:
        tx.approvals.admit(ID, DAY)
        tx.approvals.settle(ID, ApprovalState.APPROVED, tx.approvals.votes(ID)[0])
        tx.approvals.use(ID, "policy-1")
        tx.approvals.use(ID, "policy-2")
        tx.approvals.settle(ID, ApprovalState.DONE)
        [latest] = tx.approvals.latest()
    assert (latest.state, latest.decided_by, latest.used_by) == (ApprovalState.DONE, "kai", "policy-1")
    assert (latest.request_reason, latest.decision_reason) == (REASON, "agreed")


def test_process_of_the_former_release_requests_and_votes_without_a_reason(rows: Rows) -> None:
    rows.sql(
        "dashboard",
        "insert into okcm.approval (tenant_id, approval_id, action, argument, requested_by, requested_name)"
        f" values ('{TENANT}', '{ID}', 'lock', '{{}}', 'ada', 'Ada')",
    )
    rows.sql(
        "dashboard",
        "insert into okcm.approval_vote (tenant_id, approval_id, subject, name, roles, choice)"
        f" values ('{TENANT}', '{ID}', 'kai', 'Kai', '{{key-administrator}}', 'approve')",
    )
    assert rows.get().request_reason is None
    with rows.worker.tenant_tx(TENANT) as tx:
        [vote] = tx.approvals.votes(ID)
    assert vote.reason is None


@pytest.mark.parametrize("reason", ["", "x" * 501])
def test_database_rejects_a_reason_that_is_empty_or_too_long(rows: Rows, reason: str) -> None:
    with pytest.raises(DatabaseRefused), rows.dashboard.tenant_tx(TENANT) as tx:
        tx.approvals.ask(ID, Action.LOCK, {}, a_person(TENANT, "ada"), reason)


@pytest.mark.parametrize("state", [ApprovalState.APPROVED, ApprovalState.DONE, ApprovalState.FAILED])
def test_worker_cannot_approve_a_request_without_a_second_person(rows: Rows, state) -> None:
    rows.ask()
    with rows.worker.tenant_tx(TENANT) as tx:
        tx.approvals.admit(ID, DAY)
    with pytest.raises(DatabaseRefused, match="two_people"):
        rows.settle(state)
    rows.vote(a_person(TENANT))
    with pytest.raises(DatabaseRefused, match="two_people"):
        rows.settle(state)
    with pytest.raises(DatabaseRefused, match="decided_by_fkey"):  # kai has not voted
        rows.sql("worker", f"update okcm.approval set state = '{state}', decided_by = 'kai'")
    assert rows.get().state is ApprovalState.PENDING


def test_vote_for_a_request_of_another_tenant_is_rejected(rows: Rows) -> None:
    rows.ask()
    rows.sign_on("kai", "3", OTHER)
    with pytest.raises(DatabaseRefused):  # the request does not exist there
        rows.vote(KAI, tenant_id=OTHER)
    with rows.dashboard.tenant_tx(OTHER) as tx:
        assert tx.approvals.get(ID) is None
        assert tx.approvals.votes(ID) == []


def test_request_and_vote_require_a_session(rows: Rows) -> None:
    rows.ask()
    with pytest.raises(DatabaseRefused, match="42501"):
        rows.vote(a_person(TENANT, "eve"))
    with pytest.raises(DatabaseRefused, match="42501"):
        rows.ask("eve", "2" * 32)
    with rows.dashboard.tenant_tx(TENANT) as tx:
        tx.sessions.end("2" * 64)
    with pytest.raises(DatabaseRefused, match="42501"):
        rows.vote(KAI)


def test_policy_stores_the_actions_that_need_two_people(rows: Rows) -> None:
    policy = TenantPolicy(tenant_key_days=30, four_eyes=frozenset({Action.LOCK, Action.OFFBOARD}))
    with rows.worker.tenant_tx(OTHER) as tx:
        another = tx.policy.get()
    with rows.worker.tenant_tx(TENANT) as tx:
        assert not tx.policy.get().four_eyes
        tx.policy.set(policy)
        tx.policy.set(policy)
        assert tx.policy.get() == policy
    with rows.worker.tenant_tx(OTHER) as tx:
        assert tx.policy.get() == another
