import pytest

from tests.contracts.audit_signer import AuditSignerContract
from vault.session import VaultSession
from vault.signer import TransitAuditSigner


@pytest.fixture
def signer(worker: VaultSession) -> TransitAuditSigner:
    return TransitAuditSigner(worker)


class TestTransitAuditSigner(AuditSignerContract):
    pass
