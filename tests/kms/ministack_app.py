"""MiniStack with authenticated ciphertexts, as AWS KMS has them.

MiniStack 1.5 encrypts with a keystream and verifies only the context: it decrypts an altered ciphertext, or one of
another key, to wrong bytes. The rest (states, policies, signatures, roles) is unchanged.
"""

import base64
import json
import os
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from ministack.app import app
from ministack.core.responses import error_response_json
from ministack.services import kms

__all__ = ["app"]

_ID, _NONCE = 36, 12
_encrypt, _decrypt = kms._encrypt, kms._decrypt
# Without a key in the request, MiniStack reads it from the first 36 bytes of a ciphertext of more than 68 bytes.
_PADDING = bytes(32)


def _associated(data: dict[str, Any]) -> bytes:
    return json.dumps(data.get("EncryptionContext", {}), sort_keys=True).encode()


def encrypt(data: dict[str, Any]) -> Any:
    answer = _encrypt(data)
    record = kms._resolve_key(data.get("KeyId", ""))
    if answer[0] != 200 or "_symmetric_key" not in record:
        return answer
    nonce, plaintext = os.urandom(_NONCE), base64.b64decode(data["Plaintext"])
    sealed = AESGCM(record["_symmetric_key"]).encrypt(nonce, plaintext, _associated(data))
    blob = record["KeyId"].encode() + _PADDING + nonce + sealed
    return kms.json_response({**json.loads(answer[2]), "CiphertextBlob": base64.b64encode(blob).decode()})


def decrypt(data: dict[str, Any]) -> Any:
    blob = base64.b64decode(data.get("CiphertextBlob", ""))
    record = kms._resolve_key(data.get("KeyId") or blob[:_ID].decode("utf-8", "ignore"))
    if record is None and data.get("KeyId"):
        return error_response_json("NotFoundException", "", 400)
    if record is None or "_symmetric_key" not in record or kms._check_key_state(record):
        return _decrypt(data)
    named = kms._resolve_key(blob[:_ID].decode("utf-8", "ignore")) if len(blob) > _ID else None
    if named is None:
        return error_response_json("InvalidCiphertextException", "", 400)
    if named is not record:
        return error_response_json("IncorrectKeyException", "The key ID in the request does not fit.", 400)
    rest = blob[_ID + len(_PADDING) :]
    try:
        plaintext = AESGCM(record["_symmetric_key"]).decrypt(rest[:_NONCE], rest[_NONCE:], _associated(data))
    except (InvalidTag, ValueError):
        return error_response_json("InvalidCiphertextException", "", 400)
    return kms.json_response({"KeyId": record["Arn"], "Plaintext": base64.b64encode(plaintext).decode()})


kms._encrypt, kms._decrypt = encrypt, decrypt
