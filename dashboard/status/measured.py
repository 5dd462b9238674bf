"""The verdict over what is measured of the tenant of a page, for pages that show a part of it."""

from core.errors.tenants import TenantUnknown
from core.tenants.status import Verdict, verdict
from dashboard.page_context import PageContext
from database.platform.status import read_facts


def read_verdict(context: PageContext) -> Verdict:
    """Measure now; raises TenantUnknown, DatabaseUnavailable."""
    facts = read_facts(context.database, context.tenant_id, context.root_key_shards, context.now())
    if facts is None:
        raise TenantUnknown
    return verdict(facts)
