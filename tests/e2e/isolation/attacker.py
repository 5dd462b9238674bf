"""An attacker with the key server, every secret file of the worker, and an earlier copy of rows."""

from collections.abc import Iterator

from config.secrets import BOUNDARY_IDENTITY, Role
from core import names as ids
from core.keys.encryption_context import EncryptionContext, Purpose
from tests.e2e.stack import REGION, Stack
from vault.auth.tenant_tokens import TenantTokens
from vault.transit.root_keys import TransitRootKeys
from vault.transit.tenant_keys import TransitTenantKeys


class InsiderAttacker:
    """Holds a copy of the wraps of all service keys at the time of its creation."""

    def __init__(self, stack: Stack, tenant_id: str, region: str = REGION) -> None:
        self.stack, self.tenant_id, self._region = stack, tenant_id, region
        self.session = stack.vault(Role.WORKER)
        self.keys = TransitTenantKeys(self.session, TenantTokens(self.session, stack.secret(BOUNDARY_IDENTITY)))
        with stack.owner() as owner:
            self.wraps = owner.execute(
                "select service, version, wrapped from okcm.service_key"
                " where tenant_id = %s and wrapped is not null order by service, version",
                [tenant_id],
            ).fetchall()

    def inner(self) -> Iterator[tuple[EncryptionContext, str]]:
        """Remove the outer wrap of each key with the platform's root key, which an offboarding does not destroy."""
        for service, version, wrapped in self.wraps:
            context = EncryptionContext(
                self.tenant_id, ids.l2_key(self.tenant_id), service, Purpose.SERVICE_KEY, str(version)
            )
            text = TransitRootKeys(self.session).unwrap(ids.root_key(self._region), context.encode(), wrapped)
            yield context, text.decode("ascii")

    def unwrap_keys(self) -> list[bytes]:
        """Remove both wraps of each service key: the outer one, and the inner one with the tenant's identity."""
        return [self.keys.decrypt(context, text) for context, text in self.inner()]
