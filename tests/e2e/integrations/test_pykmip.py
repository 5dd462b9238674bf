"""An independent KMIP client calls all of its operations on the running service, in every version that it has.

test_pykmip.py of the codec calls the dispatcher with this client. Custom attributes and batches, which the client
cannot send, are in test_kmip_clients.py.
"""

import hashlib
import hmac
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from kmip.core import enums
from kmip.core.attributes import PrivateKeyUniqueIdentifier
from kmip.core.exceptions import OperationFailure
from kmip.core.messages import contents, messages, payloads
from kmip.pie.client import ProxyKmipClient
from kmip.pie.exceptions import KmipOperationFailure
from kmip.pie.objects import (
    ManagedObject,
    OpaqueObject,
    PrivateKey,
    PublicKey,
    SecretData,
    SymmetricKey,
    X509Certificate,
)

from tests.concurrency import wait_until
from tests.e2e.connected import Service, connect
from tests.e2e.integrations.pykmip import a_client, attribute
from tests.e2e.tenants import new_tenant

# PyKMIP 0.11 uses a deprecated protocol constant of Python but negotiates TLS 1.3.
pytestmark = pytest.mark.filterwarnings("ignore:ssl.PROTOCOL_TLS is deprecated:DeprecationWarning")

AES, RSA = enums.CryptographicAlgorithm.AES, enums.CryptographicAlgorithm.RSA
USES = enums.CryptographicUsageMask
NAME, KEY = enums.AttributeType.NAME, bytes(range(32))
VERSIONS = [version for version in enums.KMIPVersion if version < enums.KMIPVersion.KMIP_2_0]
USING_KEYS = enums.KMIPVersion.KMIP_1_2
"""The first version with operations that use keys in the service."""
SECRET = b"no one knows this"
CBC: dict[str, Any] = {
    "cryptographic_algorithm": AES,
    "block_cipher_mode": enums.BlockCipherMode.CBC,
    "padding_method": enums.PaddingMethod.PKCS5,
}
GCM: dict[str, Any] = {
    "cryptographic_algorithm": AES,
    "block_cipher_mode": enums.BlockCipherMode.GCM,
    "tag_length": 16,
    "random_iv": True,
}
NOT_FOUND, DENIED = enums.ResultReason.ITEM_NOT_FOUND, enums.ResultReason.PERMISSION_DENIED


@pytest.fixture(scope="module")
def services(stack, tmp_path_factory) -> list[Service]:
    """Return two services of one tenant."""
    tenant, folder = new_tenant(stack, "pykmip"), tmp_path_factory.mktemp("pykmip")
    return [connect(stack, tenant, "postgresql", name, folder / name) for name in ("vault-box", "neighbour")]


@pytest.fixture(params=VERSIONS, ids=lambda version: version.name)
def client(services, request) -> Iterator[ProxyKmipClient]:
    with a_client(services[0], request.param) as one:
        yield one


@pytest.fixture(scope="module")
def pair() -> RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def a_name() -> str:
    return f"name-{time.monotonic_ns()}"


def active_key(client: ProxyKmipClient) -> str:
    uid = str(client.create(AES, 256))
    client.activate(uid)
    return uid


def register_active(client: ProxyKmipClient, registrations: ManagedObject) -> str:
    uid = str(client.register(registrations))
    client.activate(uid)
    return uid


def locate(client: ProxyKmipClient, kind: enums.AttributeType, value: Any, **more: Any) -> list[str]:
    found: list[str] = client.locate(attributes=[attribute(client, kind, value)], **more)
    return found


def state_of(client: ProxyKmipClient, uid: str) -> enums.State:
    _, (found,) = client.get_attributes(uid, ["State"])
    return enums.State(found.attribute_value.value)


def assert_refused(reason: enums.ResultReason, call: Any, *arguments: Any, **named: Any) -> None:
    with pytest.raises((KmipOperationFailure, OperationFailure)) as refused:
        call(*arguments, **named)
    assert refused.value.reason is reason, refused.value


def wait_refused(reason: enums.ResultReason, call: Any, *arguments: Any) -> None:
    """Repeat a call until it is rejected: another process of the service reads a change some milliseconds later."""

    def is_refused() -> bool:
        try:
            call(*arguments)
        except (KmipOperationFailure, OperationFailure) as refused:
            return bool(refused.reason is reason)
        return False

    wait_until(is_refused, seconds=5)


def ask(client: ProxyKmipClient, operation: enums.Operation, payload: Any) -> Any:
    """Send a payload for which the client has no method; return the batch item of the response."""
    item = messages.RequestBatchItem(operation=contents.Operation(operation), request_payload=payload)
    request = client.proxy._build_request_message(None, [item])
    (answer,) = client.proxy._send_and_receive_message(request).batch_items
    return answer


def key_objects_of(pair: RSAPrivateKey) -> tuple[PrivateKey, PublicKey]:
    """Return private and public key as objects to register, for signing and verifying."""
    form = serialization.PrivateFormat.PKCS8
    private = pair.private_bytes(serialization.Encoding.DER, form, serialization.NoEncryption())
    public = pair.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.PKCS1)
    return (
        PrivateKey(RSA, 2048, private, enums.KeyFormatType.PKCS_8, [USES.SIGN], a_name()),
        PublicKey(RSA, 2048, public, enums.KeyFormatType.PKCS_1, [USES.VERIFY], a_name()),
    )


def a_certificate(pair: RSAPrivateKey) -> bytes:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "example")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, pair.public_key(), 1, now, now + timedelta(days=1))
    return builder.sign(pair, SHA256()).public_bytes(serialization.Encoding.DER)


def test_a_key_is_created_activated_rekeyed_revoked_and_destroyed(client, services) -> None:
    name = a_name()
    uid = client.create(AES, 192, name=name)
    assert state_of(client, uid) is enums.State.PRE_ACTIVE
    assert locate(client, NAME, name) == [uid]
    key = client.get(uid)
    assert (len(key.value), key.cryptographic_algorithm, key.cryptographic_length) == (24, AES, 192)
    client.activate(uid)
    assert client.get(uid).value == key.value
    assert_refused(DENIED, client.destroy, uid)
    both = [USES.ENCRYPT, USES.DECRYPT]
    assert client.check(uid, cryptographic_usage_mask=[USES.ENCRYPT], lease_time=60) == uid
    answer = client.proxy.check(uid, cryptographic_usage_mask=[USES.SIGN], lease_time=10**6)
    assert (answer["cryptographic_usage_mask"], answer["lease_time"] < 10**6) == (both, True)

    with a_client(services[1], client.kmip_version) as other:  # another service of the same tenant
        for call in (other.get, other.activate, other.destroy, other.get_attributes, other.rekey):
            assert_refused(NOT_FOUND, call, uid)
        assert uid not in other.locate()

    new = client.rekey(uid, offset=0)
    assert locate(client, NAME, name) == [new]
    assert state_of(client, new) is enums.State.ACTIVE
    assert client.get(new).value != key.value
    later = client.rekey(new, activation_date=int(time.time()) + 3600)
    assert state_of(client, later) is enums.State.PRE_ACTIVE

    client.revoke(enums.RevocationReasonCode.CESSATION_OF_OPERATION, uid, "no longer needed")
    assert state_of(client, uid) is enums.State.DEACTIVATED
    for call in (client.get, client.activate):
        assert_refused(DENIED, call, uid)
    client.destroy(uid)
    assert_refused(NOT_FOUND, client.get, uid)
    client.revoke(enums.RevocationReasonCode.KEY_COMPROMISE, new, "it was seen", int(time.time()) - 3600)
    client.destroy(new)
    assert state_of(client, new) is enums.State.DESTROYED_COMPROMISED


def test_registered_objects_are_returned_unchanged_and_a_created_pair_matches(client, pair) -> None:
    registrations: list[ManagedObject] = [
        SymmetricKey(AES, 256, KEY, [USES.ENCRYPT, USES.DECRYPT], a_name()),
        SecretData(b"a password", enums.SecretDataType.PASSWORD, name=a_name()),
        SecretData(bytes(96), enums.SecretDataType.SEED, name=a_name()),
        OpaqueObject(b"anything at all", enums.OpaqueDataType.NONE, name=a_name()),
        X509Certificate(a_certificate(pair), name=a_name()),
        *key_objects_of(pair),
    ]
    for one in registrations:
        uid = client.register(one)
        got = client.get(uid)
        assert (type(got), got.value) == (type(one), one.value)
        assert uid in locate(client, enums.AttributeType.OBJECT_TYPE, one.object_type)

    uids = client.create_key_pair(
        RSA, 2048, public_usage_mask=[USES.VERIFY], private_usage_mask=[USES.SIGN], public_name=a_name()
    )
    public, private = (client.get(uid) for uid in uids)
    assert (type(public), type(private)) == (PublicKey, PrivateKey)
    signature = serialization.load_der_private_key(private.value, None).sign(SECRET, padding.PKCS1v15(), SHA256())
    serialization.load_der_public_key(public.value).verify(signature, SECRET, padding.PKCS1v15(), SHA256())
    assert all("Link" in client.get_attribute_list(uid) for uid in uids)


def test_attributes_are_listed_changed_and_deleted_except_those_of_the_server(client) -> None:
    before, after = a_name(), a_name()
    uid = client.create(AES, 256, name=before)
    listed = client.get_attribute_list(uid)
    # PyKMIP expects the digest of 1.1 also in 1.0, and has no type for the generator of 1.3.
    unreadable = {"Digest", "Link", "Random Number Generator"}
    _, found = client.get_attributes(uid, [name for name in listed if name not in unreadable])
    names = {one.attribute_name.value for one in found}
    assert {"Unique Identifier", "Object Type", "Name", "State", "Initial Date"} <= names <= set(listed)
    assert ("Fresh" in listed) is (client.kmip_version >= enums.KMIPVersion.KMIP_1_1)
    assert ("Original Creation Date" in listed) is (client.kmip_version >= enums.KMIPVersion.KMIP_1_2)
    for call in (client.get_attributes, client.get_attribute_list):
        assert_refused(NOT_FOUND, call, "unknown")

    state = attribute(client, enums.AttributeType.STATE, enums.State.ACTIVE)
    assert_refused(DENIED, client.modify_attribute, uid, attribute=state)
    assert_refused(DENIED, client.delete_attribute, uid, attribute_name="Cryptographic Usage Mask", attribute_index=0)
    assert state_of(client, uid) is enums.State.PRE_ACTIVE

    changed, now = client.modify_attribute(uid, attribute=attribute(client, NAME, after))
    assert (changed, now.attribute_value.name_value.value) == (uid, after)
    assert (locate(client, NAME, after), locate(client, NAME, before)) == ([uid], [])
    client.delete_attribute(uid, attribute_name="Name", attribute_index=0)
    assert locate(client, NAME, after) == []
    assert "Name" not in client.get_attribute_list(uid)


def test_the_server_reports_its_capabilities_and_rejects_other_operations(client) -> None:
    functions = enums.QueryFunction
    asked = [functions.QUERY_OPERATIONS, functions.QUERY_OBJECTS, functions.QUERY_SERVER_INFORMATION]
    answer = client.proxy.query(query_functions=asked)
    assert answer.vendor_identification == "OpenKCM"
    assert {enums.ObjectType.SYMMETRIC_KEY, enums.ObjectType.SECRET_DATA} <= set(answer.object_types)
    assert (enums.Operation.ENCRYPT in answer.operations) is (client.kmip_version >= USING_KEYS)
    assert enums.Operation.REKEY_KEY_PAIR not in answer.operations
    refused = client.proxy.rekey_key_pair(private_key_uuid=PrivateKeyUniqueIdentifier(active_key(client)))
    assert refused.result_reason.value is enums.ResultReason.OPERATION_NOT_SUPPORTED

    every = [(2, 1), (2, 0), (1, 4), (1, 3), (1, 2), (1, 1), (1, 0)]
    for wanted, common in (([], every), ([(1, 1), (3, 0), (1, 3)], [(1, 1), (1, 3)]), ([(3, 0)], [])):
        versions = [contents.ProtocolVersion(*version) for version in wanted]
        found = client.proxy.discover_versions(protocol_versions=versions).protocol_versions
        assert [(version.major, version.minor) for version in found] == common


def test_a_client_of_version_2_uses_keys_that_one_of_version_1_reads(services) -> None:
    newer = a_client(services[0], enums.KMIPVersion.KMIP_2_0)
    older = a_client(services[0], enums.KMIPVersion.KMIP_1_4)
    name = a_name()
    with newer, older:
        uid = newer.create(AES, 256, name=name)
        assert locate(newer, NAME, name) == locate(older, NAME, name) == [uid]
        newer.activate(uid)
        assert state_of(newer, uid) is state_of(older, uid) is enums.State.ACTIVE
        assert newer.get(uid).value == older.get(uid).value
        assert {"Name", "State"} <= set(newer.get_attribute_list(uid))
        assert newer.set_attribute(uid, attribute_name="Sensitive", attribute_value=True) == uid
        assert_refused(enums.ResultReason.SENSITIVE, newer.get, uid)
        wait_refused(enums.ResultReason.SENSITIVE, older.get, uid)
        sealed, nonce = newer.encrypt(SECRET, uid, CBC | {"random_iv": True})
        assert older.decrypt(sealed, uid, CBC, nonce) == SECRET
        assert_refused(enums.ResultReason.WRONG_KEY_LIFECYCLE_STATE, newer.destroy, uid)
        newer.revoke(enums.RevocationReasonCode.CESSATION_OF_OPERATION, uid)
        newer.destroy(uid)
        assert_refused(enums.ResultReason.OBJECT_DESTROYED, newer.get, uid)
        wait_refused(NOT_FOUND, older.get, uid)


def test_keys_encrypt_authenticate_sign_and_derive_in_the_service(client, pair) -> None:
    uid, given, mac = active_key(client), bytes(16), enums.CryptographicAlgorithm.HMAC_SHA256
    for_mac = register_active(client, SymmetricKey(mac, 256, KEY, [USES.MAC_GENERATE, USES.MAC_VERIFY], a_name()))
    private, public = (register_active(client, one) for one in key_objects_of(pair))
    scheme = {
        "cryptographic_algorithm": RSA,
        "hashing_algorithm": enums.HashingAlgorithm.SHA_256,
        "padding_method": enums.PaddingMethod.PKCS1v15,
        "digital_signature_algorithm": enums.DigitalSignatureAlgorithm.SHA256_WITH_RSA_ENCRYPTION,
    }
    derive_pbkdf2(client, uid)
    if client.kmip_version < USING_KEYS:
        unsupported = enums.ResultReason.OPERATION_NOT_SUPPORTED
        assert_refused(unsupported, client.encrypt, SECRET, uid, CBC)
        assert_refused(unsupported, client.mac, SECRET, for_mac, mac)
        assert_refused(unsupported, client.sign, SECRET, private, scheme)
        return
    assert client.mac(SECRET, for_mac, mac) == (for_mac, hmac.digest(KEY, SECRET, hashlib.sha256))
    assert_refused(DENIED, client.mac, SECRET, uid, mac)

    signature = client.sign(SECRET, private, scheme)
    pair.public_key().verify(signature, SECRET, padding.PKCS1v15(), SHA256())
    assert client.signature_verify(SECRET, signature, public, scheme) is enums.ValidityIndicator.VALID
    assert client.signature_verify(b"another", signature, public, scheme) is enums.ValidityIndicator.INVALID
    assert_refused(DENIED, client.sign, SECRET, public, scheme)

    sealed, made = client.encrypt(SECRET, uid, CBC, given)
    assert (made, client.decrypt(sealed, uid, CBC, given)) == (None, SECRET)
    sealed, made = client.encrypt(SECRET, uid, CBC | {"random_iv": True})
    assert (len(made), client.decrypt(sealed, uid, CBC, made)) == (16, SECRET)
    assert_refused(enums.ResultReason.CRYPTOGRAPHIC_FAILURE, client.decrypt, sealed[:-1], uid, CBC, made)
    encrypt_with_gcm(client, uid)
    client.revoke(enums.RevocationReasonCode.UNSPECIFIED, uid)
    assert_refused(DENIED, client.encrypt, SECRET, uid, CBC, given)
    assert_refused(DENIED, client.decrypt, sealed, uid, CBC, made)


def derive_pbkdf2(client: ProxyKmipClient, other: str) -> None:
    """Derive from a key with the usage mask for it and verify the value; `other` lacks the usage mask."""
    base = register_active(client, SymmetricKey(AES, 256, KEY, [USES.DERIVE_KEY], a_name()))
    parameters = {
        "cryptographic_parameters": {"hashing_algorithm": enums.HashingAlgorithm.SHA_256},
        "salt": b"salt",
        "iteration_count": 1000,
    }
    derived = {"cryptographic_algorithm": AES, "cryptographic_length": 256}
    wanted = (enums.DerivationMethod.PBKDF2, parameters)
    uid = client.derive_key(
        enums.ObjectType.SYMMETRIC_KEY, [base], *wanted, cryptographic_usage_mask=[USES.ENCRYPT], **derived
    )
    assert client.get(uid).value == hashlib.pbkdf2_hmac("sha256", KEY, b"salt", 1000, 32)
    assert_refused(DENIED, client.derive_key, enums.ObjectType.SYMMETRIC_KEY, [other], *wanted, **derived)


def encrypt_with_gcm(client: ProxyKmipClient, uid: str) -> None:
    """Before 1.4 the tag follows the ciphertext; since 1.4 it is a field, and additional data is supported."""
    key, failure = AESGCM(client.get(uid).value), enums.ResultReason.CRYPTOGRAPHIC_FAILURE
    if client.kmip_version < enums.KMIPVersion.KMIP_1_4:
        sealed, nonce = client.encrypt(SECRET, uid, GCM)
        assert key.decrypt(nonce, sealed, None) == client.decrypt(sealed, uid, GCM, nonce) == SECRET
        broken = sealed[:-1] + bytes([sealed[-1] ^ 1])
        assert_refused(failure, client.decrypt, broken, uid, GCM, nonce)
        return
    parameters = client._build_cryptographic_parameters(GCM)
    request = payloads.EncryptRequestPayload(uid, parameters, SECRET, auth_additional_data=b"row 7")
    made = ask(client, enums.Operation.ENCRYPT, request).response_payload
    assert len(made.data) == len(SECRET)
    assert key.decrypt(made.iv_counter_nonce, made.data + made.auth_tag, b"row 7") == SECRET

    def decrypt(additional: bytes) -> Any:
        back = (uid, parameters, made.data, made.iv_counter_nonce, additional, made.auth_tag)
        return ask(client, enums.Operation.DECRYPT, payloads.DecryptRequestPayload(*back))

    assert decrypt(b"row 7").response_payload.data == SECRET
    assert decrypt(b"row 8").result_reason.value is failure
