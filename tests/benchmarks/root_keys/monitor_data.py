"""Thousands of tenants with root keys of a customer: real keys at both key servers, and their rows.

Each tenant has a separate L2, which encrypts its credentials, and a separate root key at the customer's server, which
encrypted its canary ciphertext. Only the rows are written in bulk, as the administrator.
"""

import hashlib
import os
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import psycopg

from config import secrets
from config.secrets import Role, read_secret
from config.settings import Settings
from core.keys.root_keys import OpenBaoKeyRef, credentials_context, probe_context
from kms.egress_policy import EgressPolicy
from kms.providers import RootKeyProviders
from tests.kms.customer_openbao import LOOPBACK, CustomerOpenBao
from vault.auth.tenant_tokens import TenantTokens
from vault.transit.tenant_keys import TransitTenantKeys
from worker.vault_login import open_vault

SERVICE = "orders"
_THREADS = 8
_PROBE_BYTES = 32


@dataclass(frozen=True)
class Held:
    """A tenant's root key as stored in its row."""

    tenant_id: str
    root_key_id: str
    place: OpenBaoKeyRef
    credentials: str
    probe: bytes
    digest: bytes


def make_keys(settings: Settings, bao: CustomerOpenBao, tenants: Sequence[str]) -> list[Held]:
    """Create L2 and root key of each tenant, and return the values of its row."""
    vault = open_vault(settings, Role.WORKER)
    identity = read_secret(settings.secrets, secrets.BOUNDARY_IDENTITY)
    tenant_keys = TransitTenantKeys(vault, TenantTokens(vault, identity))
    root_keys, credentials = RootKeyProviders(EgressPolicy(networks=LOOPBACK)), bao.token()

    def make(tenant_id: str) -> Held:
        root_key_id, place, probe = uuid.uuid4().hex, bao.place(f"root-{tenant_id}"), os.urandom(_PROBE_BYTES)
        tenant_keys.ensure(tenant_id)
        sealed = tenant_keys.encrypt(credentials_context(tenant_id, root_key_id), credentials.dump())
        bao.make_key(place.key)
        root_key = root_keys.open(tenant_id, place, credentials)
        wrapped = root_key.wrap(probe_context(tenant_id, root_key_id), probe)
        return Held(tenant_id, root_key_id, place, sealed, wrapped, hashlib.sha256(probe).digest())

    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(make, tenants))


def write_rows(administrator: psycopg.Connection, region: str, keys: Sequence[Held]) -> None:
    """Write all rows at once; an existing tenant gets only the root key and a service."""
    with administrator.transaction(), administrator.cursor() as cursor:
        cursor.execute(
            "create temporary table held (tenant_id text, root_key_id text, name text, place jsonb, credentials text,"
            " probe bytea, digest bytea) on commit drop"
        )
        with cursor.copy("copy held from stdin") as copy:
            for key in keys:
                place = key.place.model_dump_json()
                copy.write_row(
                    (key.tenant_id, key.root_key_id, key.place.name, place, key.credentials, key.probe, key.digest)
                )
        cursor.execute(
            "insert into okcm.tenant (tenant_id, organization, region, state, ready_at)"
            " select tenant_id, tenant_id, %s, 'active', now() from held on conflict do nothing",
            [region],
        )
        cursor.execute(
            "insert into okcm.root_key"
            " (tenant_id, root_key_id, mode, name, place, credentials, state, probe, probe_digest)"
            " select tenant_id, root_key_id, 'openbao', name, place, credentials, 'current', probe, digest from held"
        )
        cursor.execute(
            "update okcm.tenant set root_key_mode = 'openbao' where tenant_id in (select tenant_id from held)"
        )
        cursor.execute(
            "insert into okcm.service (tenant_id, service, kind, state, connected_at)"
            " select tenant_id, %s, 'microservice', 'connected', now() from held",
            [SERVICE],
        )
    administrator.execute("analyze")
