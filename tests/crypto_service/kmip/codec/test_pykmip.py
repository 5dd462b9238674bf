"""The PyKMIP client, an independent implementation, calls the dispatcher in each version of KMIP.

tests/e2e/integrations/test_pykmip.py does the same over TLS against the running service.
"""

import asyncio
import hashlib
import hmac
from dataclasses import dataclass, field

import pytest
from kmip import enums
from kmip.core.attributes import Name
from kmip.core.exceptions import OperationFailure
from kmip.core.factories.attribute_values import AttributeValueFactory
from kmip.core.factories.attributes import AttributeFactory
from kmip.core.objects import Attribute, CurrentAttribute, NewAttribute
from kmip.pie.client import ProxyKmipClient
from kmip.pie.exceptions import KmipOperationFailure
from kmip.pie.objects import SecretData
from kmip.services.kmip_protocol import KMIPProtocol

from crypto_service.kmip.codec import framing, ttlv
from tests.crypto_service.kmip.scene import Client, Scene

AES, CBC = enums.CryptographicAlgorithm.AES, enums.BlockCipherMode.CBC
BOTH = [enums.CryptographicUsageMask.ENCRYPT, enums.CryptographicUsageMask.DECRYPT]
CIPHER = {"cryptographic_algorithm": AES, "block_cipher_mode": CBC, "padding_method": enums.PaddingMethod.PKCS5}
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@dataclass
class Wire:
    """The socket of PyKMIP; its bytes go to the dispatcher on the test's loop."""

    loop: asyncio.AbstractEventLoop
    client: Client
    unread: bytearray = field(default_factory=bytearray)

    def sendall(self, data: bytes) -> None:
        request = ttlv.decode(bytes(data))
        response = asyncio.run_coroutine_threadsafe(self.client.send(request), self.loop).result(30)
        self.unread += ttlv.encode(response)

    def shutdown(self, _how: int) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""

    def recv(self, size: int) -> bytes:
        taken = bytes(self.unread[:size])
        del self.unread[:size]
        return taken


def pykmip(loop: asyncio.AbstractEventLoop, client: Client) -> ProxyKmipClient:
    driver = ProxyKmipClient(
        hostname="localhost", kmip_version=enums.KMIPVersion[f"KMIP_{client.major}_{client.minor}"]
    )
    driver.proxy.socket = Wire(loop, client)
    driver.proxy.protocol = KMIPProtocol(driver.proxy.socket)
    driver._is_open = True
    return driver


async def drive(scene: Scene, steps, minor: int = 4, major: int = 1) -> None:
    driver = pykmip(asyncio.get_running_loop(), scene.client(minor=minor, major=major))
    await asyncio.to_thread(steps, driver)


def refused(reason: enums.ResultReason, call) -> None:
    with pytest.raises((KmipOperationFailure, OperationFailure)) as error:
        call()
    assert error.value.reason is reason


def a_name(name: str) -> Attribute:
    value = Name.create(name, enums.NameType.UNINTERPRETED_TEXT_STRING)
    return AttributeFactory().create_attribute(enums.AttributeType.NAME, value)


@pytest.mark.parametrize("minor", range(5))
async def test_pykmip_uses_a_symmetric_key_from_creation_to_destruction(scene: Scene, minor: int):
    def steps(driver: ProxyKmipClient) -> None:
        key = driver.create(AES, 256, name="first", cryptographic_usage_mask=BOTH)
        assert driver.locate(attributes=[a_name("first")]) == [key]
        driver.activate(key)
        assert len(driver.get(key).value) == 32
        assert {"Name", "State"} <= set(driver.get_attribute_list(key))
        _, [state] = driver.get_attributes(key, ["State"])
        assert state.attribute_value.value is enums.State.ACTIVE
        assert driver.check(key, cryptographic_usage_mask=BOTH) == key
        assert driver.modify_attribute(key, attribute=a_name("second"))[0] == key
        assert driver.locate(attributes=[a_name("second")]) == [key]
        assert driver.delete_attribute(key, attribute_name="Name", attribute_index=0)[0] == key
        assert driver.locate(attributes=[a_name("second")]) == []
        new = driver.rekey(key, offset=0)
        assert driver.get(new).value != driver.get(key).value
        driver.revoke(enums.RevocationReasonCode.CESSATION_OF_OPERATION, key)
        refused(enums.ResultReason.PERMISSION_DENIED, lambda: driver.get(key))
        driver.destroy(key)
        refused(enums.ResultReason.ITEM_NOT_FOUND, lambda: driver.get(key))
        answer = driver.proxy.query(
            query_functions=[enums.QueryFunction.QUERY_OPERATIONS, enums.QueryFunction.QUERY_OBJECTS]
        )
        assert (enums.Operation.ENCRYPT in answer.operations) == (minor >= 2)
        assert enums.ObjectType.SYMMETRIC_KEY in answer.object_types
        versions = driver.proxy.discover_versions().protocol_versions
        assert [(version.major, version.minor) for version in versions] == list(framing.VERSIONS)

    await drive(scene, steps, minor)


async def test_pykmip_uses_a_symmetric_key_in_version_2(scene: Scene):
    def steps(driver: ProxyKmipClient) -> None:
        key = driver.create(AES, 256, name="first", cryptographic_usage_mask=BOTH)
        assert driver.locate(attributes=[a_name("first")]) == [key]
        driver.activate(key)
        assert len(driver.get(key).value) == 32
        assert {"Name", "State", "Cryptographic Algorithm"} <= set(driver.get_attribute_list(key))
        _, [state, length] = driver.get_attributes(key, ["State", "Cryptographic Length"])
        assert (state.attribute_value.value, length.attribute_value.value) == (enums.State.ACTIVE, 256)
        sealed, nonce = driver.encrypt(b"the data", key, {**CIPHER, "random_iv": True})
        assert driver.decrypt(sealed, key, CIPHER, nonce) == b"the data"
        factory = AttributeValueFactory()
        first, second = (factory.create_attribute_value(enums.AttributeType.NAME, name) for name in ("first", "second"))
        changed = {"current_attribute": CurrentAttribute(first), "new_attribute": NewAttribute(second)}
        assert driver.modify_attribute(key, **changed)[0] == key
        assert driver.locate(attributes=[a_name("second")]) == [key]
        refused(enums.ResultReason.ATTRIBUTE_INSTANCE_NOT_FOUND, lambda: driver.modify_attribute(key, **changed))
        assert driver.delete_attribute(key, current_attribute=CurrentAttribute(second))[0] == key
        assert driver.locate(attributes=[a_name("second")]) == []
        assert driver.set_attribute(key, attribute_name="Sensitive", attribute_value=True) == key
        refused(enums.ResultReason.SENSITIVE, lambda: driver.get(key))
        refused(enums.ResultReason.WRONG_KEY_LIFECYCLE_STATE, lambda: driver.destroy(key))
        driver.revoke(enums.RevocationReasonCode.CESSATION_OF_OPERATION, key)
        driver.destroy(key)
        refused(enums.ResultReason.OBJECT_DESTROYED, lambda: driver.get(key))
        refused(enums.ResultReason.OBJECT_NOT_FOUND, lambda: driver.get("lost"))
        password = driver.register(SecretData(b"a password", enums.SecretDataType.PASSWORD, name="login"))
        assert driver.get(password).value == b"a password"

    await drive(scene, steps, 0, 2)


async def test_pykmip_encrypts_authenticates_and_derives(scene: Scene):
    def steps(driver: ProxyKmipClient) -> None:
        mask = [*BOTH, enums.CryptographicUsageMask.DERIVE_KEY]
        key = driver.create(AES, 256, cryptographic_usage_mask=mask)
        driver.activate(key)
        sealed, nonce = driver.encrypt(b"the data", key, {**CIPHER, "random_iv": True})
        assert driver.decrypt(sealed, key, CIPHER, nonce) == b"the data"
        refused(enums.ResultReason.CRYPTOGRAPHIC_FAILURE, lambda: driver.decrypt(sealed[:-1], key, CIPHER, nonce))

        mac = enums.CryptographicAlgorithm.HMAC_SHA256
        authentic = driver.create(mac, 256, cryptographic_usage_mask=[enums.CryptographicUsageMask.MAC_GENERATE])
        driver.activate(authentic)
        expected = hmac.digest(driver.get(authentic).value, b"the data", hashlib.sha256)
        assert driver.mac(b"the data", authentic, mac)[1] == expected

        parameters = {
            "cryptographic_parameters": {"hashing_algorithm": enums.HashingAlgorithm.SHA_256},
            "derivation_data": b"orders",
        }
        derived = driver.derive_key(
            enums.ObjectType.SYMMETRIC_KEY,
            [key],
            enums.DerivationMethod.HMAC,
            parameters,
            cryptographic_length=128,
            cryptographic_algorithm=AES,
        )
        assert driver.get(derived).value == hmac.digest(driver.get(key).value, b"orders", hashlib.sha256)[:16]

    await drive(scene, steps)


async def test_pykmip_signs_and_verifies_with_a_key_pair(scene: Scene):
    def steps(driver: ProxyKmipClient) -> None:
        public, private = driver.create_key_pair(
            enums.CryptographicAlgorithm.RSA,
            2048,
            public_usage_mask=[enums.CryptographicUsageMask.VERIFY],
            private_usage_mask=[enums.CryptographicUsageMask.SIGN],
        )
        schemes = [
            {"padding_method": padding, "hashing_algorithm": enums.HashingAlgorithm.SHA_256}
            for padding in (enums.PaddingMethod.PKCS1v15, enums.PaddingMethod.PSS)
        ]
        refused(enums.ResultReason.PERMISSION_DENIED, lambda: driver.sign(b"the data", private, schemes[0]))
        driver.activate(private)
        driver.activate(public)
        for scheme in schemes:
            signature = driver.sign(b"the data", private, scheme)
            assert driver.signature_verify(b"the data", signature, public, scheme) is enums.ValidityIndicator.VALID
            assert driver.signature_verify(b"other", signature, public, scheme) is enums.ValidityIndicator.INVALID

    await drive(scene, steps)
