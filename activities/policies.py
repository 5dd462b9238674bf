"""Changing what a tenant asks of its keys; a row of PostgreSQL only."""

from temporalio import activity

from activities.approving import require_approval
from activities.journal import record
from core.messages.tenants import PolicyInput
from core.tenants.approvals import Action
from core.tenants.policy import parse_policy
from database.connection.database import Database
from openkcm.contract.audit_events import AuditName


class PolicyActivities:
    def __init__(self, database: Database) -> None:
        self._database = database

    @activity.defn(name="change-policy")
    def change_policy(self, step: PolicyInput) -> None:
        """Put another policy in force, by the rules of the one that was."""
        policy = parse_policy(step.tenant_key_days, step.service_key_days, step.four_eyes)
        with self._database.tenant_tx(step.tenant_id) as tx:
            tx.tenants.lock()
            before = tx.policy.get()
            require_approval(tx, step, Action.CHANGE_POLICY, policy.as_argument(), step.approval_id)
            tx.policy.set(policy)
            record(
                tx,
                step,
                AuditName.POLICY_CHANGED,
                step.tenant_id,
                before=before.in_words(),
                after=policy.in_words(),
            )
