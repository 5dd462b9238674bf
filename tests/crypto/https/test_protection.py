"""GET /v1/protection: the list of the calling service alone, read as a whole or not at all."""

import json
from typing import Any

import pytest

from crypto.blocking import FairThreads
from crypto.client import AsyncClient, Client, Retry, ServiceFailed
from crypto.client_calls import Answered, perform, protection
from crypto.interfaces import Caller
from crypto.protection import ProtectionsOnRecord
from database.connection import Database
from database.interfaces import ProtectionRow
from tenancy.ids import l2_key
from tenancy.lifecycle import State
from tenancy.protection import Mode, ProtectedField, Store
from tests.crypto.https.stage import OTHER_TENANT, SERVICE, TENANT, Stage
from tests.crypto.https.wire import Wire, get
from tests.database import builders
from tests.database.fixtures import Field

SSN = ProtectedField(Store.POSTGRESQL, "public.customers", "ssn", Mode.RANDOMISED)
PHONE = ProtectedField(Store.MONGODB, "shop.customers", "contact.phone", Mode.DETERMINISTIC, plain_allowed=True)


async def test_the_client_returns_the_callers_own_list(stage: Stage) -> None:
    lists = {
        (TENANT, SERVICE): ProtectionRow(3, [SSN, PHONE]),
        (TENANT, "billing"): ProtectionRow(1, [SSN]),
        (OTHER_TENANT, SERVICE): ProtectionRow(1, [PHONE]),
    }
    stage.on_loop(lambda: stage.protections.lists.update(lists))
    with Client.from_folder(stage.folder) as client:
        assert client.protection() == (SSN, PHONE)
    _, folder = stage.service(OTHER_TENANT, SERVICE)
    async with AsyncClient.from_folder(folder) as stranger:
        assert await stranger.protection() == (PHONE,)


def test_the_answer_is_as_documented(stage: Stage) -> None:
    stage.on_loop(lambda: stage.protections.lists.update({(TENANT, SERVICE): ProtectionRow(3, [PHONE])}))
    with Wire(stage.dial()) as wire:
        wire.send(get("/v1/protection"))
        assert wire.reply().json == {
            "version": 3,
            "fields": [
                {
                    "store": "mongodb",
                    "place": "shop.customers",
                    "field": "contact.phone",
                    "mode": "deterministic",
                    "plain_allowed": True,
                }
            ],
        }
        wire.send(get("/v1/protection?service=billing"))
        assert wire.reply().status == 404


def test_a_locked_tenants_service_gets_what_other_paths_give(stage: Stage) -> None:
    stage.on_loop(lambda: stage.core.move(TENANT, State.LOCKED))
    with Wire(stage.dial()) as wire:
        wire.send(get("/v1/protection"))
        answered = wire.reply()
    assert (answered.status, answered.json["code"]) == (403, "tenant_closed")


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"fields": None},
        {"fields": [{"store": "oracle", "place": "a.b", "field": "c", "mode": "randomised", "plain_allowed": False}]},
        {"fields": [{"store": "mongodb", "place": "a.b", "field": "c", "mode": "ranged", "plain_allowed": False}]},
        {"fields": [{"store": "mongodb", "place": "a.b", "mode": "randomised", "plain_allowed": False}]},
    ],
)
def test_what_is_not_understood_is_no_list(document: dict[str, Any]) -> None:
    """A newer service may answer what this client does not know: left out, a field would be stored plain."""
    asking = perform(protection(), Retry(attempts=1))
    next(asking)
    with pytest.raises(ServiceFailed) as refused:
        asking.send(Answered(200, json.dumps(document).encode(), ""))
    assert refused.value.code == "answer_not_understood"


async def test_the_list_is_read_with_the_rights_of_the_crypto_service(field: Field, worker: Database) -> None:
    for tenant_id, serial in (("acme-corp", "1a2b"), ("globex", "3c4d")):
        builders.a_provisioned_tenant(worker, tenant_id)
        builders.a_connected_service(field, tenant_id, serial=serial)
    with field.open("dashboard", max_size=1).tenant_tx("globex") as tx:
        tx.protection.protect("orders", PHONE, "ada")
    threads = FairThreads(2)
    reader = ProtectionsOnRecord(field.open("crypto", max_size=1), threads)
    found = {}
    for tenant_id, service in (("acme-corp", "orders"), ("globex", "orders"), ("globex", "billing")):
        caller = Caller(tenant_id, service, l2_key(tenant_id), "eu-west-1", "1a2b", State.ACTIVE)
        found[tenant_id, service] = list((await reader.of(caller)).fields)
    threads.close()
    assert found == {("acme-corp", "orders"): [SSN], ("globex", "orders"): [PHONE, SSN], ("globex", "billing"): []}
