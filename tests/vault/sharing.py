"""Forbidden copies of keys, created as an administrator of the key server could."""

import base64
import json
import os
from typing import Any

import urllib3
from cryptography.hazmat.primitives import hashes, keywrap
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from vault.auth.client import TokenSession

_COPYABLE = ("exportable", "allow_plaintext_backup")
_SOURCE = "made-to-be-copied"


def a_shared_key(admin: TokenSession, *names: str) -> None:
    """Store one key under several names, each with the properties of a regular key."""
    copy = _copy(admin)
    for name in names:
        _restore(admin, name, copy)


def an_old_version_again(admin: TokenSession, name: str) -> None:
    """Create a key whose second version equals its first."""
    copy = _copy(admin)
    policy = copy["policy"]
    policy["keys"]["2"], policy["latest_version"] = policy["keys"]["1"], 2
    archived = copy["archived_keys"]["keys"]
    archived.append(archived[1])
    _restore(admin, name, copy)


def _copy(admin: TokenSession) -> dict[str, Any]:
    source = f"{_SOURCE}-{os.urandom(8).hex()}"
    admin.write(f"transit/keys/{source}", {"type": "aes256-gcm96", "derived": True, **dict.fromkeys(_COPYABLE, True)})
    copy: dict[str, Any] = json.loads(base64.b64decode((admin.read(f"transit/backup/{source}") or {})["backup"]))
    copy["policy"].update(dict.fromkeys(_COPYABLE, False))
    return copy


def _restore(admin: TokenSession, name: str, copy: dict[str, Any]) -> None:
    backup = base64.b64encode(json.dumps(copy).encode()).decode()
    admin.write(f"transit/restore/{name}", {"backup": backup})


def an_imported_key(admin: TokenSession, name: str, material: bytes) -> None:
    """Import a key, which the policies permit to no process of OpenKCM."""
    public = load_pem_public_key(wrapping_key(admin))
    assert isinstance(public, RSAPublicKey)
    once = os.urandom(32)
    sealed = public.encrypt(once, padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None))
    ciphertext = base64.b64encode(sealed + keywrap.aes_key_wrap_with_padding(once, material)).decode()
    kind = {"type": "aes256-gcm96", "derived": True, "hash_function": "SHA256"}
    admin.write(f"transit/keys/{name}/import", {"ciphertext": ciphertext, **kind})


def wrapping_key(admin: TokenSession) -> bytes:
    """Return the key that wraps imports; the server creates it, RSA with 4096 bits, when it is first read."""
    # The five seconds of a session are too short under load.
    with urllib3.PoolManager(retries=False, timeout=300) as pool:
        url, headers = f"{admin._client.url}/v1/transit/wrapping_key", {"X-Vault-Token": admin._own_token}
        return pool.request("GET", url, headers=headers).json()["data"]["public_key"].encode()
