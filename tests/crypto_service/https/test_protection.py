"""GET /v1/protection returns only the list of the calling service, either complete or not at all."""

import json
from typing import Any

import pytest

from core.tenants.lifecycle import State
from database.services.protected_fields import ProtectionRow
from openkcm.contract.protected_fields import Mode, ProtectedField, Store
from openkcm.sdk.client import AsyncClient, Client
from openkcm.sdk.errors import ServiceFailed
from openkcm.sdk.protocol import Response, Retry, perform, protection
from tests.crypto_service.https.stage import OTHER_TENANT, SERVICE, TENANT, Stage
from tests.crypto_service.https.wire import Wire, get

pytestmark = pytest.mark.integration

SSN = ProtectedField(Store.POSTGRESQL, "public.customers", "ssn", Mode.RANDOMISED)
PHONE = ProtectedField(Store.MONGODB, "shop.customers", "contact.phone", Mode.DETERMINISTIC, plaintext_allowed=True)


async def test_client_returns_only_the_callers_list(stage: Stage):
    lists = {
        (TENANT, SERVICE): ProtectionRow(3, [SSN, PHONE]),
        (TENANT, "billing"): ProtectionRow(1, [SSN]),
        (OTHER_TENANT, SERVICE): ProtectionRow(1, [PHONE]),
    }
    stage.on_loop(lambda: stage.protections.lists.update(lists))
    with Client.from_folder(stage.folder) as client:
        assert client.protection() == (SSN, PHONE)
    _, folder = stage.service(OTHER_TENANT, SERVICE)
    async with AsyncClient.from_folder(folder) as other_client:
        assert await other_client.protection() == (PHONE,)


def test_response_is_as_documented(stage: Stage):
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
                    "plaintext_allowed": True,
                }
            ],
        }
        wire.send(get("/v1/protection?service=billing"))
        assert wire.reply().status == 404


def test_locked_tenant_gets_the_same_error_as_on_other_paths(stage: Stage):
    stage.on_loop(lambda: stage.core.move(TENANT, State.LOCKED))
    with Wire(stage.dial()) as wire:
        wire.send(get("/v1/protection"))
        answered = wire.reply()
    assert (answered.status, answered.json["code"]) == (403, "tenant_not_operational")


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"fields": None},
        {
            "fields": [
                {"store": "oracle", "place": "a.b", "field": "c", "mode": "randomised", "plaintext_allowed": False}
            ]
        },
        {"fields": [{"store": "mongodb", "place": "a.b", "field": "c", "mode": "ranged", "plaintext_allowed": False}]},
        {"fields": [{"store": "mongodb", "place": "a.b", "mode": "randomised", "plaintext_allowed": False}]},
    ],
)
def test_unknown_response_is_rejected_as_a_whole(document: dict[str, Any]):
    """A newer service may return values unknown to this client; a skipped field would be stored in plaintext."""
    asking = perform(protection(), Retry(attempts=1))
    next(asking)
    with pytest.raises(ServiceFailed) as refused:
        asking.send(Response(200, json.dumps(document).encode(), ""))
    assert refused.value.code == "unexpected_response"
