"""Query's information about the server, and its random number generator."""

import pytest

from core.errors.requests import TooManyRequests
from core.services import CryptoOperation
from core.tenants.lifecycle import State
from crypto_service.kmip.codec.enums import ObjectType, Operation, ProfileName, QueryFunction, ResultReason
from crypto_service.kmip.codec.fields import choice, flag, number, octets, structure, text
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item
from crypto_service.server.limits import TenantLimits
from tests.crypto_service.kmip.scene import VALUE, Client, Scene, attribute, creation

UNSPECIFIED = (choice(Tag.RNG_ALGORITHM, 1),)


async def query(client: Client, *functions: QueryFunction) -> list[Item]:
    asked = (choice(Tag.QUERY_FUNCTION, function) for function in functions)
    return list((await client.ask(Operation.QUERY, *asked)).payload.children())


async def test_query_returns_capabilities_generator_and_profiles_of_the_clients_version(scene: Scene):
    functions = QueryFunction.QUERY_CAPABILITIES, QueryFunction.QUERY_RNGS, QueryFunction.QUERY_PROFILES
    capabilities, generator, *profiles = await query(scene.client(), *functions)
    assert capabilities == structure(
        Tag.CAPABILITY_INFORMATION,
        flag(Tag.STREAMING_CAPABILITY, value=True),
        flag(Tag.ASYNCHRONOUS_CAPABILITY, value=False),
        flag(Tag.ATTESTATION_CAPABILITY, value=False),
        flag(Tag.BATCH_UNDO_CAPABILITY, value=False),
        flag(Tag.BATCH_CONTINUE_CAPABILITY, value=True),
        choice(Tag.UNWRAP_MODE, 3),
        choice(Tag.DESTROY_ACTION, 2),
        choice(Tag.RNG_MODE, 2),
    )
    assert generator == structure(Tag.RNG_PARAMETERS, *UNSPECIFIED)
    assert {profile.tag for profile in profiles} == {Tag.PROFILE_INFORMATION}
    names = [ProfileName(profile.first(Tag.PROFILE_NAME).value).name for profile in profiles]
    assert len(names) == 5
    assert all(name.endswith("SERVER_KMIP_V1_4") for name in names)
    older = await query(scene.client(minor=3), *functions)
    assert [item.tag for item in older[:2]] == [Tag.CAPABILITY_INFORMATION, Tag.RNG_PARAMETERS]
    assert older[0].first(Tag.BATCH_UNDO_CAPABILITY) is None
    assert all(ProfileName(item.children()[0].value).name.endswith("V1_3") for item in older[2:])
    assert await query(scene.client(minor=2), *functions) == []


async def test_keys_that_the_server_creates_name_its_generator(scene: Scene):
    client = scene.client()
    key = await client.create()
    common = structure(
        Tag.COMMON_TEMPLATE_ATTRIBUTE,
        attribute("Cryptographic Algorithm", choice(VALUE, 6)),
        attribute("Cryptographic Length", number(VALUE, 256)),
        attribute("Cryptographic Usage Mask", number(VALUE, 3)),
    )
    pair = await client.ask(Operation.CREATE_KEY_PAIR, common)
    new = (await client.about(Operation.REKEY, key)).object_id
    halves = (pair.value(Tag.PRIVATE_KEY_UNIQUE_IDENTIFIER), pair.value(Tag.PUBLIC_KEY_UNIQUE_IDENTIFIER))
    for object_id in (key, new, *halves):
        attributes = (await client.about(Operation.GET_ATTRIBUTES, object_id)).attributes
        assert attributes["Random Number Generator"] == UNSPECIFIED
    found = await client.ask(Operation.LOCATE, attribute("Random Number Generator", structure(VALUE, *UNSPECIFIED)))
    assert len(found.ids) == 4


async def test_client_names_the_generator_only_of_a_key_that_it_registers(scene: Scene):
    client = scene.client()
    drbg = attribute("Random Number Generator", structure(VALUE, choice(Tag.RNG_ALGORITHM, 3)))
    assert (await client.ask(*creation(drbg))).reason is ResultReason.PERMISSION_DENIED
    key = await client.create()
    rekeyed = await client.about(Operation.REKEY, key, structure(Tag.TEMPLATE_ATTRIBUTE, drbg))
    assert rekeyed.reason is ResultReason.PERMISSION_DENIED
    opaque = structure(Tag.OPAQUE_OBJECT, choice(Tag.OPAQUE_DATA_TYPE, 1), octets(Tag.OPAQUE_DATA_VALUE, b"data"))
    kind = choice(Tag.OBJECT_TYPE, ObjectType.OPAQUE_OBJECT)
    registered = await client.ask(Operation.REGISTER, kind, structure(Tag.TEMPLATE_ATTRIBUTE, drbg), opaque)
    attributes = (await client.about(Operation.GET_ATTRIBUTES, registered.object_id)).attributes
    assert attributes["Random Number Generator"] == (choice(Tag.RNG_ALGORITHM, 3),)


async def test_random_bytes_are_audited_and_charged_by_their_number(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    costs: list[int] = []
    monkeypatch.setattr(TenantLimits, "charge", lambda _limits, _tenant, cost, _paid: costs.append(cost))
    client = scene.client(minor=2)
    first, second, large = [
        (await client.ask(Operation.RNG_RETRIEVE, number(Tag.DATA_LENGTH, size))).value(Tag.DATA)
        for size in (32, 32, 65_536)
    ]
    assert (len(first), len(large), first == second) == (32, 65_536, False)
    assert costs == [16]
    entries = [(entry.operation, entry.bytes, entry.refused) for entry in scene.journal.entries]
    assert entries == [(CryptoOperation.RANDOM, size, "") for size in (32, 32, 65_536)]
    assert all(first.hex() not in repr(entry) for entry in scene.journal.entries)


async def test_random_bytes_are_rejected_at_the_tenants_limit(scene: Scene, monkeypatch: pytest.MonkeyPatch):
    def refuse(_limits: TenantLimits, _tenant: str, _cost: int, _paid: int) -> None:
        raise TooManyRequests

    monkeypatch.setattr(TenantLimits, "charge", refuse)
    answer = await scene.client().ask(Operation.RNG_RETRIEVE, number(Tag.DATA_LENGTH, 65_536))
    assert (answer.reason, answer.message) == (ResultReason.GENERAL_FAILURE, TooManyRequests().message)
    assert answer.item.first(Tag.RESPONSE_PAYLOAD) is None


@pytest.mark.parametrize("size", [-1, 0, 65_537])
async def test_random_bytes_outside_the_bounds_are_rejected(scene: Scene, size: int):
    answer = await scene.client().ask(Operation.RNG_RETRIEVE, number(Tag.DATA_LENGTH, size))
    assert answer.reason is ResultReason.INVALID_FIELD


async def test_random_operations_need_1_2_and_an_active_tenant(scene: Scene):
    retrieve = Operation.RNG_RETRIEVE, number(Tag.DATA_LENGTH, 1)
    assert (await scene.client(minor=1).ask(*retrieve)).reason is ResultReason.OPERATION_NOT_SUPPORTED
    scene.callers.states[scene.tenant] = State.SUSPENDED
    assert (await scene.client().ask(*retrieve)).reason is ResultReason.PERMISSION_DENIED


async def test_seed_is_not_used_and_the_response_says_so(scene: Scene):
    client = scene.client()
    assert (await client.ask(Operation.RNG_SEED, octets(Tag.DATA, b"seed"))).value(Tag.DATA_LENGTH) == 0
    assert (await client.ask(Operation.RNG_SEED)).reason is ResultReason.MISSING_DATA
    assert (await client.ask(Operation.RNG_SEED, text(Tag.DATA, "seed"))).reason is ResultReason.INVALID_MESSAGE
