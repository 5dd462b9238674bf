"""The page Keys: root key, tenant key and service keys with their actions, who can open what, and the timeline."""

from collections import Counter
from dataclasses import dataclass
from datetime import timedelta

from core.services import CryptoOperation
from core.tenants.locks import HEALTHY
from dashboard.components import key_map
from dashboard.components.fragments import admitted, draw_unknown
from dashboard.keys import cards, service_keys, versions_dialog, view
from dashboard.keys.service_keys import Rows
from dashboard.keys.view import Facts
from dashboard.page_context import PageContext
from dashboard.root_keys import dialog as root_key_dialog
from dashboard.rotation import dialog as rotation_dialog
from dashboard.status.section import draw_header
from database.tenants import TenantRow
from database.usage import Days

_DAY = timedelta(hours=24)
_OPERATIONS = tuple(CryptoOperation)


@dataclass(frozen=True, slots=True)
class _Page:
    tenant: TenantRow
    rows: Rows


def draw(context: PageContext) -> None:
    if not admitted(context):
        return
    page = _read(context)
    if page is None:
        draw_unknown()
        return
    tenant, rows = page.tenant, page.rows
    draw_header(context, tenant, "Keys")
    cards.draw(context, tenant, rows.rotation)
    service_keys.draw(context, rows)
    root_key_dialog.draw_open(context, tenant)
    rotation_dialog.draw_open(context)
    versions_dialog.draw_open(context)


def _read(context: PageContext) -> _Page | None:
    now = context.now()
    today = now.date()
    with context.database.tenant_tx(context.tenant_id) as tx:
        tenant = tx.tenants.get()
        if tenant is None:
            return None
        services, keys, held = list(tx.services.all()), list(tx.services.keys()), tx.root_keys.current()
        facts = Facts(
            tenant,
            tx.policy.get(),
            services,
            keys,
            tx.objects.counts(),
            Counter({service: len(fields) for service, fields in tx.protection.by_service().items()}),
            tx.usage.counts(Days(view.first_day(today), today), "service", _OPERATIONS),
            tx.usage.totals(now - _DAY),
        )
        health = HEALTHY if held is None else held.health
        chart = key_map.key_map(tenant, tx.keys.all(), keys, services, health)
        return _Page(tenant, Rows(facts, chart, next(iter(tx.rotations.all(1)), None)))
