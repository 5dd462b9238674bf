"""An independent KMIP client keeps its objects in the running service, in every version of 1.x.

It drives every operation it has, here and in `test_pykmip_uses`. What it cannot say by itself (custom attributes,
batches) is in `test_kmip_clients`.
"""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from kmip.core import enums, objects
from kmip.core.attributes import PrivateKeyUniqueIdentifier
from kmip.core.exceptions import OperationFailure
from kmip.core.messages import contents, payloads
from kmip.pie.objects import (
    ManagedObject,
    OpaqueObject,
    PrivateKey,
    PublicKey,
    SecretData,
    SymmetricKey,
    X509Certificate,
)

from tests.stories.pykmip import (
    AES,
    DECRYPT,
    ENCRYPT,
    a_client,
    a_name,
    active_key,
    ask,
    assert_refused,
    attribute,
    attributes_of,
    client,
    halves_of,
    newest,
    pair,
    since,
    state_of,
    stranger,
    vault_box,
)

__all__ = ["client", "newest", "pair", "stranger", "vault_box"]  # fixtures that pytest finds here by their names

# PyKMIP 0.11 names a protocol that Python has deprecated; it negotiates TLS 1.3 all the same.
pytestmark = pytest.mark.filterwarnings("ignore:ssl.PROTOCOL_TLS is deprecated:DeprecationWarning")


def test_a_key_is_made_got_activated_revoked_and_destroyed(client) -> None:
    name = a_name()
    uid = client.create(AES, 256, name=name)
    assert state_of(client, uid) is enums.State.PRE_ACTIVE
    assert client.locate(attributes=[attribute(client, enums.AttributeType.NAME, name)]) == [uid]
    key = client.get(uid)
    assert isinstance(key, SymmetricKey)
    assert (len(key.value), key.cryptographic_algorithm, key.cryptographic_length) == (32, AES, 256)

    client.activate(uid)
    assert state_of(client, uid) is enums.State.ACTIVE
    assert client.get(uid).value == key.value
    assert_refused(enums.ResultReason.PERMISSION_DENIED, client.destroy, uid)

    client.revoke(enums.RevocationReasonCode.CESSATION_OF_OPERATION, uid, "no longer needed")
    assert state_of(client, uid) is enums.State.DEACTIVATED
    assert_refused(enums.ResultReason.PERMISSION_DENIED, client.get, uid)
    assert_refused(enums.ResultReason.PERMISSION_DENIED, client.activate, uid)

    client.destroy(uid)
    assert_refused(enums.ResultReason.ITEM_NOT_FOUND, client.get, uid)
    assert client.locate(attributes=[attribute(client, enums.AttributeType.NAME, name)]) == []


def test_a_compromised_key_is_known_as_such_even_when_it_is_gone(client) -> None:
    uid = active_key(client)
    client.revoke(enums.RevocationReasonCode.KEY_COMPROMISE, uid, "it was seen", int(time.time()) - 3600)
    assert state_of(client, uid) is enums.State.COMPROMISED
    assert_refused(enums.ResultReason.PERMISSION_DENIED, client.get, uid)
    client.destroy(uid)
    assert state_of(client, uid) is enums.State.DESTROYED_COMPROMISED


@pytest.mark.parametrize("bits", [128, 192, 256])
def test_keys_of_each_length_are_made(newest, bits) -> None:
    assert len(newest.get(newest.create(AES, bits)).value) == bits // 8


def test_what_is_registered_comes_back_as_it_was(client, pair) -> None:
    uses = [ENCRYPT, DECRYPT]
    brought: list[ManagedObject] = [
        SymmetricKey(AES, 256, bytes(range(32)), uses, a_name()),
        SecretData(b"a password", enums.SecretDataType.PASSWORD, name=a_name()),
        SecretData(bytes(96), enums.SecretDataType.SEED, name=a_name()),
        OpaqueObject(b"anything at all", enums.OpaqueDataType.NONE, name=a_name()),
        X509Certificate(a_certificate(pair), name=a_name()),
        *halves_of(pair),
    ]
    for one in brought:
        uid = client.register(one)
        got = client.get(uid)
        assert (type(got), got.value) == (type(one), one.value)
        assert client.locate(attributes=[attribute(client, enums.AttributeType.OBJECT_TYPE, one.object_type)])


def a_certificate(pair: RSAPrivateKey) -> bytes:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "example")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, pair.public_key(), 1, now, now + timedelta(days=1))
    return builder.sign(pair, SHA256()).public_bytes(serialization.Encoding.DER)


def test_a_key_pair_is_made_and_its_halves_belong_together(client) -> None:
    uids = client.create_key_pair(
        enums.CryptographicAlgorithm.RSA,
        2048,
        public_name=a_name(),
        public_usage_mask=[enums.CryptographicUsageMask.VERIFY],
        private_name=a_name(),
        private_usage_mask=[enums.CryptographicUsageMask.SIGN],
    )
    public, private = (client.get(uid) for uid in uids)
    assert isinstance(public, PublicKey)
    assert isinstance(private, PrivateKey)
    signer = serialization.load_der_private_key(private.value, None)
    verifier = serialization.load_der_public_key(public.value)
    signature = signer.sign(b"a message", padding.PKCS1v15(), SHA256())
    verifier.verify(signature, b"a message", padding.PKCS1v15(), SHA256())
    assert all("Link" in client.get_attribute_list(uid) for uid in uids)


def test_a_key_is_replaced_by_another_that_takes_its_name(client) -> None:
    name = a_name()
    uid = client.create(AES, 256, name=name)
    client.activate(uid)
    new = client.rekey(uid, offset=0)
    assert new != uid
    assert client.locate(attributes=[attribute(client, enums.AttributeType.NAME, name)]) == [new]
    assert state_of(client, new) is enums.State.ACTIVE
    assert client.get(new).value != client.get(uid).value
    later = client.rekey(new, activation_date=int(time.time()) + 3600)
    assert state_of(client, later) is enums.State.PRE_ACTIVE


def test_what_a_key_may_be_used_for_is_checked(client) -> None:
    uid = active_key(client)
    assert client.check(uid, cryptographic_usage_mask=[ENCRYPT], lease_time=60) == uid
    answer = client.proxy.check(uid, cryptographic_usage_mask=[enums.CryptographicUsageMask.SIGN], lease_time=10**6)
    assert answer["cryptographic_usage_mask"] == [ENCRYPT, DECRYPT]
    assert answer["lease_time"] < 10**6
    unknown = ask(client, enums.Operation.CHECK, payloads.CheckRequestPayload("nobody"))
    assert unknown.result_reason.value is enums.ResultReason.ITEM_NOT_FOUND


def test_attributes_are_read_listed_and_no_newer_than_the_client(client) -> None:
    name = a_name()
    uid = client.create(AES, 192, name=name)
    found = attributes_of(client, uid)
    assert {"Unique Identifier", "Object Type", "Name", "State", "Initial Date"} <= found.keys()
    assert (found["Cryptographic Length"], found["Unique Identifier"]) == (192, uid)
    listed = client.get_attribute_list(uid)
    assert set(found) <= set(listed)
    assert ("Fresh" in listed) is since(client, enums.KMIPVersion.KMIP_1_1)
    assert ("Original Creation Date" in listed) is since(client, enums.KMIPVersion.KMIP_1_2)
    assert_refused(enums.ResultReason.ITEM_NOT_FOUND, client.get_attributes, "nobody")
    assert_refused(enums.ResultReason.ITEM_NOT_FOUND, client.get_attribute_list, "nobody")


def test_attributes_are_changed_and_deleted(client) -> None:
    before, after = a_name(), a_name()
    uid = client.create(AES, 256, name=before)
    changed, told = client.modify_attribute(uid, attribute=attribute(client, enums.AttributeType.NAME, after))
    assert (changed, told.attribute_value.name_value.value) == (uid, after)
    assert client.locate(attributes=[attribute(client, enums.AttributeType.NAME, after)]) == [uid]
    assert client.locate(attributes=[attribute(client, enums.AttributeType.NAME, before)]) == []

    deleted, told = client.delete_attribute(uid, attribute_name="Name", attribute_index=0)
    assert (deleted, told.attribute_value.name_value.value) == (uid, after)
    assert client.locate(attributes=[attribute(client, enums.AttributeType.NAME, after)]) == []
    assert "Name" not in client.get_attribute_list(uid)


def test_attributes_that_are_the_servers_stay_as_they_are(client) -> None:
    uid = client.create(AES, 256)
    before = attributes_of(client, uid)
    for call in (
        lambda: client.modify_attribute(
            uid, attribute=attribute(client, enums.AttributeType.STATE, enums.State.ACTIVE)
        ),
        lambda: client.delete_attribute(uid, attribute_name="State", attribute_index=0),
        lambda: client.delete_attribute(uid, attribute_name="Cryptographic Usage Mask", attribute_index=0),
    ):
        with pytest.raises(OperationFailure) as refused:
            call()
        assert refused.value.reason is enums.ResultReason.PERMISSION_DENIED
    assert attributes_of(client, uid) == before


def test_objects_are_found_by_all_that_they_have_and_in_parts(client) -> None:
    group = a_name()
    uids = [client.create(AES, bits, name=f"{group}-{bits}") for bits in (128, 256)]
    client.activate(uids[1])

    def found(*wanted: objects.Attribute, **more: Any) -> set[str]:
        return set(client.locate(attributes=list(wanted), **more)) & set(uids)

    kind = enums.AttributeType
    assert found(attribute(client, kind.CRYPTOGRAPHIC_LENGTH, 128)) == {uids[0]}
    assert found(attribute(client, kind.CRYPTOGRAPHIC_ALGORITHM, AES)) == set(uids)
    assert found(attribute(client, kind.STATE, enums.State.ACTIVE)) == {uids[1]}
    assert found(attribute(client, kind.OBJECT_TYPE, enums.ObjectType.SYMMETRIC_KEY)) == set(uids)
    assert found(attribute(client, kind.CRYPTOGRAPHIC_USAGE_MASK, [ENCRYPT])) == set(uids)
    assert found(attribute(client, kind.UNIQUE_IDENTIFIER, uids[0])) == {uids[0]}
    assert found(attribute(client, kind.OBJECT_TYPE, enums.ObjectType.CERTIFICATE)) == set()
    hour_ago = int(time.time()) - 3600
    between = [attribute(client, kind.INITIAL_DATE, when) for when in (hour_ago, hour_ago + 7200)]
    assert found(*between) == set(uids)
    assert found(attribute(client, kind.INITIAL_DATE, hour_ago)) == set()
    assert len(client.locate(maximum_items=1, attributes=[attribute(client, kind.CRYPTOGRAPHIC_LENGTH, 256)])) == 1
    assert found(attribute(client, kind.OBJECT_TYPE, enums.ObjectType.SYMMETRIC_KEY), storage_status_mask=2) == set()


def test_it_says_who_it_is_and_what_it_can(client) -> None:
    functions = [enums.QueryFunction.QUERY_OPERATIONS, enums.QueryFunction.QUERY_OBJECTS]
    functions.append(enums.QueryFunction.QUERY_SERVER_INFORMATION)
    answer = client.proxy.query(query_functions=functions)
    assert answer.vendor_identification == "OpenKCM"
    assert {enums.ObjectType.SYMMETRIC_KEY, enums.ObjectType.SECRET_DATA} <= set(answer.object_types)
    assert {enums.Operation.CREATE, enums.Operation.GET, enums.Operation.QUERY} <= set(answer.operations)
    assert (enums.Operation.ENCRYPT in answer.operations) is since(client, enums.KMIPVersion.KMIP_1_2)


def test_versions_are_found_out_in_the_clients_order(client) -> None:
    def told(*asked: tuple[int, int]) -> list[tuple[int, int]]:
        versions = [contents.ProtocolVersion(*version) for version in asked]
        answer = client.proxy.discover_versions(protocol_versions=versions)
        return [(version.major, version.minor) for version in answer.protocol_versions]

    assert told() == [(1, 4), (1, 3), (1, 2), (1, 1), (1, 0)]
    assert told((1, 1), (2, 0), (1, 3)) == [(1, 1), (1, 3)]
    assert told((2, 0)) == []


def test_what_is_not_done_here_is_said_so(client) -> None:
    answer = client.proxy.rekey_key_pair(private_key_uuid=PrivateKeyUniqueIdentifier(active_key(client)))
    assert answer.result_reason.value is enums.ResultReason.OPERATION_NOT_SUPPORTED
    supported = client.proxy.query(query_functions=[enums.QueryFunction.QUERY_OPERATIONS]).operations
    assert enums.Operation.REKEY_KEY_PAIR not in supported


def test_a_client_of_2_0_is_told_that_it_is_too_new(vault_box) -> None:
    with a_client(vault_box, enums.KMIPVersion.KMIP_2_0) as client:
        assert_refused(enums.ResultReason.INVALID_MESSAGE, client.create, AES, 256)


def test_nothing_is_found_under_an_id_that_another_service_has(client, stranger) -> None:
    uid = active_key(client)
    with a_client(stranger, client.kmip_version) as other:
        for call in (other.get, other.activate, other.destroy, other.get_attributes, other.rekey):
            assert_refused(enums.ResultReason.ITEM_NOT_FOUND, call, uid)
        assert uid not in other.locate()
    assert isinstance(client.get(uid), SymmetricKey)
