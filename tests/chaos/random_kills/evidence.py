"""The assertions after the kills: every operation took effect once, and nothing is left over."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import suppress

from cryptography import x509

from core import names as ids
from core.errors.platform import ConflictingResource
from core.tenants.lifecycle import State
from tests.chaos.audited import whole_stream
from tests.chaos.random_kills.customer import Customer
from tests.concurrency import wait_until
from tests.e2e.stack import Stack
from vault.auth.client import TokenSession, VaultSession, token_session
from vault.pki.certificates import hex_serial, tenant_of_authority
from workflows.client.connection import connect_client

_OPEN_SECONDS = 300


def assert_as_asked(stack: Stack, customers: Sequence[Customer]) -> Counter[str]:
    """Check every tenant; return what was counted."""
    counted: Counter[str] = Counter()
    vault = stack.vault()
    keys = _tenant_keys(_key_auditor(stack))
    authorities = _authorities(vault)
    for customer in customers:
        tenant_id = customer.tenant_id
        counted["audit records"] += len(whole_stream(stack.database(), tenant_id))
        with stack.database().tenant_tx(tenant_id) as tx:
            row = tx.tenants.get()
            assert row is not None
            assert row.state is customer.state, tenant_id
            recorded = {one.serial for one in tx.certificates.authorities()}
            services = {one.service: one.state != "disconnected" for one in tx.services.all()}
            root_key, l2 = tx.root_keys.current(), tx.keys.get(ids.l2_key(tenant_id))
        if customer.state is State.OFFBOARDED:
            assert keys[tenant_id] == set(), tenant_id
            assert len(authorities[tenant_id]) == 1, tenant_id
            continue
        assert keys[tenant_id] == {ids.l2_key(tenant_id), ids.ca_key(tenant_id), ids.payload_key(tenant_id)}
        assert set(authorities[tenant_id]) == recorded, tenant_id
        assert services == customer.services, tenant_id
        assert (customer.holder == "platform") == (root_key is None), tenant_id
        there = vault.read(f"transit/keys/{ids.l2_key(tenant_id)}")
        assert there is not None
        assert l2 is not None
        assert there["latest_version"] == l2.version, tenant_id
        _assert_rotations(stack, customer, l2.version)
    unknown = keys.keys() - {one.tenant_id for one in customers} - set(ids.PLATFORM_TENANTS)
    assert not unknown, unknown
    counted["keys"] = sum(len(names) for names in keys.values())
    counted["certificates"] = sum(len(serials) for serials in authorities.values())
    _assert_workflows(stack, customers)
    return counted


def _assert_rotations(stack: Stack, customer: Customer, version: int) -> None:
    """Each requested rotation is complete, and every version of L2 is from a recorded rotation."""
    with stack.database().raw_tx(customer.tenant_id) as connection:
        states = Counter(state for (state,) in connection.execute("select state from okcm.rotation where tenant_key"))
    assert not states["running"], customer.tenant_id
    assert states["done"] == customer.rotations, (customer.tenant_id, states)
    assert 1 + states["done"] <= version <= 1 + states.total(), (customer.tenant_id, states, version)


def _key_auditor(stack: Stack) -> TokenSession:
    """Return a session that may list all keys, which no process of the product may; the launcher grants it."""
    settings = stack.settings
    setup = VaultSession(
        settings.vault_url, "setup", (settings.state_dir / "openbao" / "setup-secret-id").read_text(encoding="ascii")
    )
    setup.write("sys/policies/acl/openkcm-lister", {"policy": 'path "transit/keys" { capabilities = ["list"] }'})
    setup.write(
        "auth/approle/role/openkcm-lister",
        {
            "role_id": "lister",
            "bind_secret_id": False,
            "secret_id_bound_cidrs": [],
            "token_policies": ["openkcm-lister"],
            "token_bound_cidrs": ["127.0.0.1/32"],
        },
    )
    answer = token_session(settings.vault_url, "").request("POST", "auth/approle/login", {"role_id": "lister"})
    return token_session(settings.vault_url, answer["auth"]["client_token"])


def _tenant_keys(vault: TokenSession) -> defaultdict[str, set[str]]:
    found: defaultdict[str, set[str]] = defaultdict(set)
    for name in vault.list("transit/keys"):
        if tenant_id := ids.tenant_of_key(name):
            found[tenant_id].add(name)
    return found


def _authorities(vault: VaultSession) -> defaultdict[str, list[str]]:
    """Return the serials of the tenant CAs that the key server's PKI issued."""
    found = defaultdict(list)
    for serial in vault.list("pki/certs"):
        answer = vault.read(f"pki/cert/{serial}")
        assert answer is not None
        certificate = x509.load_pem_x509_certificate(answer["certificate"].encode())
        with suppress(ConflictingResource):  # the root, and the certificates of servers
            found[tenant_of_authority(certificate)].append(hex_serial(certificate))
    return found


def _assert_workflows(stack: Stack, customers: Sequence[Customer]) -> None:
    expected = set()
    for customer in customers:
        if customer.state is not State.OFFBOARDED:
            expected.add(ids.tenant_workflow(customer.tenant_id))
            expected |= {
                ids.service_workflow(customer.tenant_id, service)
                for service, is_connected in customer.services.items()
                if is_connected
            }
    wanted = {customer.tenant_id for customer in customers}

    async def running() -> set[str]:
        client = await connect_client(stack.settings.temporal_address)
        found = {run.id async for run in client.list_workflows("ExecutionStatus = 'Running'")}
        return {one for one in found if ids.tenant_of_workflow(one) in wanted and not ids.is_boundary_check(one)}

    wait_until(
        lambda: asyncio.run(running()) == expected,
        lambda: f"running, or missing: {sorted(asyncio.run(running()) ^ expected)}",
        seconds=_OPEN_SECONDS,
    )
