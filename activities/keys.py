"""Step 2: the tenant's own keys in Transit."""

from typing import Protocol

from temporalio import activity

from activities.fingerprinting import alarm, refused_fingerprint
from activities.journal import Clock, finish, is_recorded, record
from activities.metrics import Metrics
from core import names as ids
from core.errors.keys import KeyUnavailable
from core.keys.encryption_context import Context, Purpose
from core.messages.base import StepInput
from core.tenants.provisioning import Step
from database.connection.database import Database
from openkcm.contract.audit_events import AuditName
from vault.transit.payload_keys import TransitPayloadKeys
from vault.transit.tenant_keys import TransitFingerprints, TransitTenantKeys

_PROOF = b"openkcm tenant key round trip"


class PayloadKeyring(Protocol):
    """The codec's keyring: from `learn` on, this process encrypts the tenant's payloads under the tenant's own key."""

    def learn(self, tenant_id: str, data_key: bytes, wrapped: str) -> None: ...


class KeyActivities:
    def __init__(  # noqa: PLR0913, PLR0917 - one for each thing that is made
        self,
        database: Database,
        tenant_keys: TransitTenantKeys,
        fingerprints: TransitFingerprints,
        payload_keys: TransitPayloadKeys,
        keyring: PayloadKeyring,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._database = database
        self._tenant_keys = tenant_keys
        self._fingerprints = fingerprints
        self._payload_keys = payload_keys
        self._keyring = keyring
        self._clock = clock
        self._metrics = metrics

    @activity.defn(name=Step.CREATE_KEYS)
    def create_keys(self, step: StepInput) -> None:
        """Make the tenant's keys and see them work: one that nobody has opened anything with is not yet a key.

        The L2 is what the tenant's data hangs on (MTCI U1, C2); under the payload key its workflow payloads lie from
        now on. A tenant key that somebody else has too is refused before it is on record as anybody's.
        """
        began = self._clock()
        tenant_key = self._tenant_keys.ensure(step.tenant_id)
        context = Context(step.tenant_id, tenant_key.name, "", Purpose.VERIFY, step.operation_id)
        if self._tenant_keys.decrypt(context, self._tenant_keys.encrypt(context, _PROOF)) != _PROOF:
            raise KeyUnavailable
        fingerprint = self._fingerprints.of(step.tenant_id, tenant_key.version)
        payload_key = self._payload_keys.ensure(step.tenant_id)
        data_key, wrapped = self._payload_keys.new_data_key(payload_key.name)
        self._keyring.learn(step.tenant_id, data_key, wrapped)
        with self._database.tenant_tx(step.tenant_id) as tx:
            refusal = refused_fingerprint(tx, step, tenant_key, fingerprint)
            if refusal is None:
                tx.keys.record(tenant_key.name, "L2", tenant_key.version)
                record(tx, step, AuditName.TENANT_KEY_CREATED, tenant_key.name, version=str(tenant_key.version))
                tx.keys.record(payload_key.name, "payload", payload_key.version)
                record(tx, step, AuditName.PAYLOAD_KEY_CREATED, payload_key.name, version=str(payload_key.version))
                finish(tx, step, Step.CREATE_KEYS, began)
        if refusal is not None:
            alarm(self._metrics, step.tenant_id, refusal)
            raise refusal

    @activity.defn(name="disable-tenant-key")
    def disable_tenant_key(self, step: StepInput) -> None:
        """Roll back step 2 by disabling, never by destroying: the key may have wrapped something already.

        One that was never recorded is left alone; it may be what somebody else made under that name.
        """
        with self._database.tenant_tx(step.tenant_id) as tx:
            if not is_recorded(tx, ids.l2_key(step.tenant_id)):
                return
        self._tenant_keys.disable(step.tenant_id)
        with self._database.tenant_tx(step.tenant_id) as tx:
            record(tx, step, AuditName.PROVISION_ROLLED_BACK, ids.l2_key(step.tenant_id))
