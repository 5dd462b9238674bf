"""Who can read and encrypt data, and who can lock the tenant: derived from its root key, its state and its policy.

Each statement is a property of the design that a test proves:

* A service reads and encrypts only its own data:
  tests/crypto_service/keys/test_operations.py::test_other_tenant_service_or_resource_gets_the_same_rejection.
* A suspended tenant cannot encrypt, and a locked one cannot decrypt:
  tests/crypto_service/keys/test_operations.py::test_suspended_tenant_cannot_encrypt_and_locked_tenant_cannot_decrypt.
* Users of the dashboard have no operation on data and see no key material:
  tests/dashboard/keys/test_page.py::test_an_auditor_sees_every_key_without_key_material_or_buttons, and the import
  contract "The dashboard has no access to a key server" of pyproject.toml.
* The root key alone unwraps no service key, and neither does the tenant key:
  tests/activities/services/test_services.py::test_service_key_needs_both_root_and_tenant_key_to_be_unwrapped.
* Without a customer's root key nothing is decrypted, and its failure locks the tenant without an approval:
  tests/crypto_service/server/test_keyring_root_keys.py,
  tests/activities/approvals/test_approvals.py::test_lock_after_a_root_key_failure_needs_no_approval.
* A lock needs a second person exactly where the policy says so, also for an operator; a failed isolation check locks
  without one:
  tests/activities/approvals/test_approvals.py::test_lock_needs_an_approval_only_where_the_policy_says_so,
  tests/cli/tenants/test_policy.py::test_lock_by_one_person_is_rejected_where_an_approval_is_required.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from core.keys.root_keys import RootKeyMode
from core.tenants.approvals import Action
from core.tenants.lifecycle import DECRYPTS, ENCRYPTS
from core.tenants.policy import TenantPolicy
from database.tenants import TenantRow

NO = "No"
_HOLDERS: Mapping[str, str] = MappingProxyType(
    {
        RootKeyMode.AWS_KMS: "Holder of the root key: your AWS account",
        RootKeyMode.PKCS11: "Holder of the root key: your HSM",
        RootKeyMode.OPENBAO: "Holder of the root key: your key server",
    }
)


@dataclass(frozen=True, slots=True)
class Access:
    """What one group of people or programs can do."""

    who: str
    read: str
    encrypt: str
    lock: str


def access(tenant: TenantRow, policy: TenantPolicy) -> tuple[Access, ...]:
    """Return who can read, encrypt and lock now."""
    own_root_key = tenant.root_key_mode in _HOLDERS
    rows = [
        Access("Your services", _while(tenant, reads=True), _while(tenant, reads=False), NO),
        Access("Key administrators of your organization", NO, NO, _lock(policy)),
        Access("Auditors of your organization", NO, NO, NO),
    ]
    if own_root_key:
        rows.append(Access(_HOLDERS[tenant.root_key_mode], NO, NO, "Yes, by disabling the key"))
    limit = "Only while your root key permits it" if own_root_key else "Possible: holds root key and tenant key"
    rows.append(Access("Platform operator", limit, limit, _operator_lock(policy)))
    return tuple(rows)


def _while(tenant: TenantRow, *, reads: bool) -> str:
    if tenant.state not in (DECRYPTS if reads else ENCRYPTS):
        return f"No: the tenant is {tenant.state}"
    return "Own data only"


def _lock(policy: TenantPolicy) -> str:
    return "Yes, with the approval of a second person" if policy.wants_two_for(Action.LOCK) else "Yes"


def _operator_lock(policy: TenantPolicy) -> str:
    if policy.wants_two_for(Action.LOCK):
        return "Only approved by your organization, or after a failed isolation check"
    return "Yes"
