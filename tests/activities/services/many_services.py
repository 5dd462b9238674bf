"""Thousands of connected services of one tenant, as copies of the rows of one service."""

import psycopg

from tests.activities.services.connecting import SERVICE

_COPIES = """
insert into okcm.service (tenant_id, service, kind, state, connected_at)
    select tenant_id, 'many-' || to_char(n, 'FM00000'), kind, state, connected_at
    from okcm.service, generate_series(1, %(number)s) as n
    where tenant_id = %(tenant)s and service = %(service)s;
insert into okcm.service_certificate (tenant_id, serial, service, generation, request_id, certificate_pem, not_before,
                                      not_after, authority)
    select tenant_id, md5(n::text), 'many-' || to_char(n, 'FM00000'), generation, request_id || n, certificate_pem,
           not_before, not_after, authority
    from okcm.service_certificate, generate_series(1, %(number)s) as n
    where tenant_id = %(tenant)s and service = %(service)s;
insert into okcm.service_key (tenant_id, service, version, l2_key, root_key_mode, root_key, wrapped, state, l2_version)
    select tenant_id, 'many-' || to_char(n, 'FM00000'), version, l2_key, root_key_mode, root_key, wrapped, state,
           l2_version
    from okcm.service_key, generate_series(1, %(number)s) as n
    where tenant_id = %(tenant)s and service = %(service)s;
"""


def add_services(administrator: psycopg.Connection, tenant_id: str, number: int, service: str = SERVICE) -> None:
    """Connect `number` more services, bypassing row-level security; their keys cannot be unwrapped."""
    for statement in _COPIES.split(";")[:-1]:
        administrator.execute(statement.encode(), {"tenant": tenant_id, "service": service, "number": number})
    administrator.execute("analyze okcm.service; analyze okcm.service_certificate; analyze okcm.service_key")


def prepare_versions(administrator: psycopg.Connection, tenant_id: str) -> None:
    """Record a prepared second version of each added service's key."""
    administrator.execute(
        "insert into okcm.service_key (tenant_id, service, version, l2_key, root_key_mode, root_key, wrapped,"
        " state, l2_version, activated_at)"
        " select tenant_id, service, 2, l2_key, root_key_mode, root_key, wrapped, 'prepared', l2_version, null"
        " from okcm.service_key where tenant_id = %s and service like 'many-%%'",
        [tenant_id],
    )
