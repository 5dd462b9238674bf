"""An independent KMIP client has the running service use its keys: encrypt, authenticate, sign, derive."""

import hashlib
import hmac
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from kmip.core import enums
from kmip.core.messages import payloads
from kmip.pie.objects import SymmetricKey

from tests.stories.pykmip import (
    AES,
    DECRYPT,
    ENCRYPT,
    a_client,
    a_name,
    active_key,
    ask,
    assert_refused,
    client,
    halves_of,
    newest,
    pair,
    since,
    vault_box,
)

__all__ = ["client", "newest", "pair", "vault_box"]  # fixtures that pytest finds here by their names

# PyKMIP 0.11 names a protocol that Python has deprecated; it negotiates TLS 1.3 all the same.
pytestmark = pytest.mark.filterwarnings("ignore:ssl.PROTOCOL_TLS is deprecated:DeprecationWarning")

SECRET = b"no one knows this"
CBC: dict[str, Any] = {
    "cryptographic_algorithm": AES,
    "block_cipher_mode": enums.BlockCipherMode.CBC,
    "padding_method": enums.PaddingMethod.PKCS5,
}
GCM: dict[str, Any] = {"cryptographic_algorithm": AES, "block_cipher_mode": enums.BlockCipherMode.GCM, "tag_length": 16}


def test_data_is_encrypted_and_decrypted_with_a_key_that_stays(client) -> None:
    if not since(client, enums.KMIPVersion.KMIP_1_2):
        assert_refused(enums.ResultReason.OPERATION_NOT_SUPPORTED, client.encrypt, SECRET, active_key(client), CBC)
        return
    uid = active_key(client)
    given = bytes(range(16))
    sealed, made = client.encrypt(SECRET, uid, CBC, given)
    assert made is None
    assert client.decrypt(sealed, uid, CBC, given) == SECRET
    sealed, made = client.encrypt(SECRET, uid, CBC | {"random_iv": True})
    assert len(made) == 16
    assert client.decrypt(sealed, uid, CBC, made) == SECRET
    assert_refused(enums.ResultReason.CRYPTOGRAPHIC_FAILURE, client.decrypt, sealed[:-1], uid, CBC, made)

    client.revoke(enums.RevocationReasonCode.UNSPECIFIED, uid)
    assert_refused(enums.ResultReason.PERMISSION_DENIED, client.encrypt, SECRET, uid, CBC, given)
    assert_refused(enums.ResultReason.PERMISSION_DENIED, client.decrypt, sealed, uid, CBC, made)


@pytest.mark.parametrize("version", [enums.KMIPVersion.KMIP_1_2, enums.KMIPVersion.KMIP_1_3])
def test_before_1_4_the_tag_of_gcm_follows_the_ciphertext(vault_box, version) -> None:
    with a_client(vault_box, version) as client:
        uid = active_key(client)
        sealed, nonce = client.encrypt(SECRET, uid, GCM | {"random_iv": True})
        assert AESGCM(client.get(uid).value).decrypt(nonce, sealed, None) == SECRET
        assert client.decrypt(sealed, uid, GCM, nonce) == SECRET
        broken = sealed[:-1] + bytes([sealed[-1] ^ 1])
        assert_refused(enums.ResultReason.CRYPTOGRAPHIC_FAILURE, client.decrypt, broken, uid, GCM, nonce)


def test_since_1_4_gcm_has_its_tag_apart_and_additional_data(newest) -> None:
    uid = active_key(newest)
    parameters = newest._build_cryptographic_parameters(GCM | {"random_iv": True})
    asked = payloads.EncryptRequestPayload(uid, parameters, SECRET, auth_additional_data=b"row 7")
    sealed = ask(newest, enums.Operation.ENCRYPT, asked).response_payload
    assert len(sealed.data) == len(SECRET)
    key = AESGCM(newest.get(uid).value)
    assert key.decrypt(sealed.iv_counter_nonce, sealed.data + sealed.auth_tag, b"row 7") == SECRET

    def opened(additional: bytes) -> Any:
        back = payloads.DecryptRequestPayload(
            uid, parameters, sealed.data, sealed.iv_counter_nonce, additional, sealed.auth_tag
        )
        return ask(newest, enums.Operation.DECRYPT, back)

    assert opened(b"row 7").response_payload.data == SECRET
    assert opened(b"row 8").result_reason.value is enums.ResultReason.CRYPTOGRAPHIC_FAILURE


def test_a_message_is_authenticated(client) -> None:
    secret = bytes(range(32))
    hash_mac = enums.CryptographicAlgorithm.HMAC_SHA256
    uses = [enums.CryptographicUsageMask.MAC_GENERATE, enums.CryptographicUsageMask.MAC_VERIFY]
    uid = client.register(SymmetricKey(hash_mac, 256, secret, uses, a_name()))
    client.activate(uid)
    if not since(client, enums.KMIPVersion.KMIP_1_2):
        assert_refused(enums.ResultReason.OPERATION_NOT_SUPPORTED, client.mac, SECRET, uid, hash_mac)
        return
    assert client.mac(SECRET, uid, hash_mac) == (uid, hmac.digest(secret, SECRET, hashlib.sha256))
    assert_refused(enums.ResultReason.PERMISSION_DENIED, client.mac, SECRET, active_key(client), hash_mac)


def test_a_message_is_signed_and_its_signature_verified(client, pair) -> None:
    scheme = {
        "cryptographic_algorithm": enums.CryptographicAlgorithm.RSA,
        "hashing_algorithm": enums.HashingAlgorithm.SHA_256,
        "padding_method": enums.PaddingMethod.PKCS1v15,
        "digital_signature_algorithm": enums.DigitalSignatureAlgorithm.SHA256_WITH_RSA_ENCRYPTION,
    }
    private, public = (client.register(one) for one in halves_of(pair))
    for uid in (private, public):
        client.activate(uid)
    if not since(client, enums.KMIPVersion.KMIP_1_2):
        assert_refused(enums.ResultReason.OPERATION_NOT_SUPPORTED, client.sign, SECRET, private, scheme)
        return
    signature = client.sign(SECRET, private, scheme)
    pair.public_key().verify(signature, SECRET, padding.PKCS1v15(), SHA256())
    valid, invalid = enums.ValidityIndicator.VALID, enums.ValidityIndicator.INVALID
    assert client.signature_verify(SECRET, signature, public, scheme) is valid
    assert client.signature_verify(b"another", signature, public, scheme) is invalid
    assert_refused(enums.ResultReason.PERMISSION_DENIED, client.sign, SECRET, public, scheme)


def test_a_key_is_derived_from_one_that_stays(client) -> None:
    secret = bytes(range(32))
    base = client.register(SymmetricKey(AES, 256, secret, [enums.CryptographicUsageMask.DERIVE_KEY], a_name()))
    client.activate(base)
    parameters = {
        "cryptographic_parameters": {"hashing_algorithm": enums.HashingAlgorithm.SHA_256},
        "salt": b"salt",
        "iteration_count": 1000,
    }
    wanted = (enums.ObjectType.SYMMETRIC_KEY, [base], enums.DerivationMethod.PBKDF2, parameters)
    uid = client.derive_key(
        *wanted,
        cryptographic_algorithm=AES,
        cryptographic_length=256,
        cryptographic_usage_mask=[ENCRYPT, DECRYPT],
    )
    assert client.get(uid).value == hashlib.pbkdf2_hmac("sha256", secret, b"salt", 1000, 32)
    other = (enums.ObjectType.SYMMETRIC_KEY, [active_key(client)], enums.DerivationMethod.PBKDF2, parameters)
    assert_refused(
        enums.ResultReason.PERMISSION_DENIED,
        client.derive_key,
        *other,
        cryptographic_algorithm=AES,
        cryptographic_length=256,
    )
