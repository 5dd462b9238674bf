"""OpenBao's part of the floor: the requests of one tenant on one keep-alive connection, without checks and without
parsing, except where a later request needs a value.

The list is derived from the modules of vault/; `counting` compares it with the product's requests, path by path.
"""

import base64
import json
import os
import time
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from joserfc import jwt
from joserfc.jwk import ECKey

from config import secrets
from config.secrets import Role, read_secret, vault_secret
from config.settings import Settings
from core import names as ids
from core.keys.encryption_context import EncryptionContext, Purpose
from openkcm.contract.names import tenant_dns
from vault.auth.tenant_tokens import TENANT_ROLE, TOKEN_AUDIENCE, TOKEN_ISSUER

_CANARY_SECONDS = 30
_WORKER_SECONDS = 600
_LEAF_BYTES = os.urandom(420)
"""As long as a leaf certificate that the isolation check has signed."""


class BareVault:
    def __init__(self, settings: Settings) -> None:
        self._connection = HTTPConnection(urlsplit(settings.vault_url).netloc)
        self._identity = ECKey.import_key(read_secret(settings.secrets, secrets.BOUNDARY_IDENTITY))
        self._secret_id = read_secret(settings.secrets, vault_secret(Role.WORKER))
        self._log_in_as_worker()
        self._log_in_as_canary()

    def refresh(self) -> None:
        """Renew the tokens in time, as the product does, which caches them across tenants."""
        if time.monotonic() > self._log_in_at:
            self._connection.close()
            self._log_in_as_worker()
        if time.monotonic() > self._renew_at:
            self._connection.close()  # the server ends an idle one; the next request opens another
            self._log_in_as_canary()

    def close(self) -> None:
        self._connection.close()

    def create_keys(self, tenant_id: str) -> str:
        """Create the L2 key, use it once, and create the payload key; return the tenant's token."""
        name = ids.l2_key(tenant_id)
        self._write(f"transit/keys/{name}", {"type": "aes256-gcm96", "derived": True})
        token = self.log_in(tenant_id)
        context = EncryptionContext(tenant_id, name, "", Purpose.VERIFY, "provision-1")
        ciphertext = self._encrypt(token, context, name)
        body = {"ciphertext": ciphertext, "context": _encoded(context.encode())}
        self._call(token, "POST", f"transit/decrypt/{name}", body)
        payload = ids.payload_key(tenant_id)
        self._write(f"transit/keys/{payload}", {"type": "aes256-gcm96"})
        self._write(f"transit/datakey/plaintext/{payload}", {"bits": 256})
        return token

    def create_authority(self, tenant_id: str) -> None:
        name = ids.ca_key(tenant_id)
        self._call(self._token, "GET", f"transit/keys/{name}")
        self._write(f"transit/keys/{name}", {"type": "ecdsa-p256"})
        csr = self._write(f"transit/keys/{name}/csr", {})["csr"]
        self._write(
            "pki/root/sign-intermediate",
            {
                "csr": csr,
                "common_name": f"OpenKCM tenant {tenant_id}",
                "permitted_dns_domains": tenant_dns(tenant_id),
                "max_path_length": "0",
                "ttl": "8760h",
            },
        )

    def attack(self, tenant_id: str, token: str) -> None:
        """Send the requests of the isolation checks before activation, in both directions."""
        mine, canary = _party(tenant_id, token), _party(ids.CANARY_TENANT_ID, self._canary_token)
        ours, theirs = (self._encrypt(own_token, here, here.l2_key) for here, own_token in (mine, canary))
        for attacker, target, own, stolen in ((mine, canary, ours, theirs), (canary, mine, theirs, ours)):
            self._attack_keys(*attacker, target[0], own, stolen)
            for _leaf in ("with its own name", "with another tenant's name"):
                body = {"input": base64.b64encode(_LEAF_BYTES).decode(), "marshaling_algorithm": "asn1"}
                self._write(f"transit/sign/{ids.ca_key(attacker[0].tenant_id)}/sha2-256", body)

    def _attack_keys(
        self, here: EncryptionContext, token: str, there: EncryptionContext, own: str, stolen: str
    ) -> None:
        self._encrypt(token, there, there.l2_key)
        moved = (here._replace(tenant_id=there.tenant_id), here._replace(l2_key=there.l2_key))
        items = ((here, own), (there, stolen), (here, stolen), *((context, own) for context in moved))
        self._decrypt(token, here.l2_key, items)
        self._decrypt(token, there.l2_key, ((there, stolen),))

    def _encrypt(self, token: str, context: EncryptionContext, key: str) -> str:
        body = {"plaintext": _encoded(b"a floor has 16 b"), "context": _encoded(context.encode())}
        # A rejection, which the attack expects, has no data.
        return str((self._call(token, "POST", f"transit/encrypt/{key}", body).get("data") or {}).get("ciphertext", ""))

    def _decrypt(self, token: str, key: str, items: tuple[tuple[EncryptionContext, str], ...]) -> None:
        batch = [{"context": _encoded(context.encode()), "ciphertext": ciphertext} for context, ciphertext in items]
        body = {"batch_input": batch, "partial_failure_response_code": 200}
        self._call(token, "POST", f"transit/decrypt/{key}", body)

    def _log_in_as_worker(self) -> None:
        login = {"role_id": "openkcm-worker", "secret_id": self._secret_id}
        self._token = self._call("", "POST", "auth/approle/login", login)["auth"]["client_token"]
        self._log_in_at = time.monotonic() + _WORKER_SECONDS

    def _log_in_as_canary(self) -> None:
        self._canary_token = self.log_in(ids.CANARY_TENANT_ID)
        self._renew_at = time.monotonic() + _CANARY_SECONDS

    def log_in(self, tenant_id: str) -> str:
        """Return a token that can use the tenant's L2 key for a minute."""
        issued = int(time.time())
        claims = {
            "iss": TOKEN_ISSUER,
            "aud": TOKEN_AUDIENCE,
            "sub": f"tenant:{tenant_id}|floor",
            "tenant": tenant_id,
            "iat": issued,
            "exp": issued + 60,
            "jti": uuid4().hex,
        }
        signed = jwt.encode({"alg": "ES256"}, claims, self._identity)
        answer = self._call("", "POST", "auth/jwt/login", {"role": TENANT_ROLE, "jwt": signed})
        return str(answer["auth"]["client_token"])

    def _write(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = self._call(self._token, "POST", path, body)
        if "data" not in answer:
            raise RuntimeError(f"the script's list of requests is outdated: {path}: {answer}")
        return dict(answer["data"])

    def _call(self, token: str, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        headers = {"X-Vault-Request": "true", "Content-Type": "application/json"}
        if token:
            headers["X-Vault-Token"] = token
        self._connection.request(method, f"/v1/{path}", None if body is None else json.dumps(body).encode(), headers)
        text = self._connection.getresponse().read()
        return dict(json.loads(text)) if text else {}


def _party(tenant_id: str, token: str) -> tuple[EncryptionContext, str]:
    return EncryptionContext(tenant_id, ids.l2_key(tenant_id), "boundary-probe", Purpose.BOUNDARY, ""), token


def _encoded(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
