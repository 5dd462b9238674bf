"""HYOK: a root key in Transit of the customer's OpenBao or Vault, which encrypts and decrypts and never exports it.

The minimal policy for a key `KEY` at the mount `transit`:

    path "transit/encrypt/KEY" { capabilities = ["update"] }
    path "transit/decrypt/KEY" { capabilities = ["update"] }
    path "transit/keys/KEY" { capabilities = ["read"] }

and the `default` policy, which permits a token to read and renew itself. `create` must not be granted: with it, Transit
would create a new key in place of a deleted one, and service keys would be wrapped by a key that the customer did not
choose.

The context is sent twice: as associated data, which AEAD keys authenticate, and as the context of the key derivation,
which only derived keys use. So the kind of the key need not be known.
"""

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence

from core.errors.keys import (
    CustomerKeyError,
    RootKeyDenied,
    RootKeyDisabled,
    RootKeyMissing,
    RootKeyRefused,
    RootKeyUnsuitable,
    WrongContext,
)
from core.keys.encryption_context import EncryptionContext
from core.keys.root_keys import Credentials, OpenBaoKeyRef
from kms.egress_policy import EgressPolicy, is_address
from kms.interfaces import RootKey
from kms.network.http import Server, Transport
from kms.network.session_cache import Sessions
from kms.openbao.client import OpenBaoCalls, not_transit, soft_deleted
from kms.self_test import round_trip_problems, transit_version
from openkcm.errors import OpenKcmError

_SUITABLE = ("aes256-gcm96", "chacha20-poly1305", "xchacha20-poly1305")


class OpenBao:
    """The provider: the connections and logins that the root keys of all customers share."""

    def __init__(self, reach: EgressPolicy) -> None:
        self._reach = reach
        self._transport = Transport(
            reach.timeout_seconds, lambda address, encrypted: reach.allows(address, encrypted=encrypted)
        )
        self._logins: Sessions[str] = Sessions()

    def open(self, tenant_id: str, place: OpenBaoKeyRef, credentials: Credentials) -> RootKey:
        """Return the root key without a connection. Raises RootKeyRefused for an address that is not allowed."""
        server = Server.at(place.address, place.ca_pem)
        encrypted = server.scheme == "https"
        forbidden = not encrypted and not self._reach.networks
        if is_address(server.host):
            forbidden = not self._reach.allows(server.host, encrypted=encrypted)
        if forbidden:
            raise RootKeyRefused(
                "address: not one that may be connected to",
                "use https and a public address, or ask the operator to allow the network",
            )
        return OpenBaoRootKey(tenant_id, place, OpenBaoCalls(place, credentials, self._transport, self._logins))


class OpenBaoRootKey:
    """An `interfaces.RootKey` in Transit; each operation is one or two requests."""

    def __init__(self, tenant_id: str, place: OpenBaoKeyRef, calls: OpenBaoCalls) -> None:
        self._tenant_id = tenant_id
        self._place = place
        self._calls = calls

    def wrap(self, context: EncryptionContext, inner: bytes) -> bytes:
        """Encrypt, after a check that the key exists: if the policy permits it, Transit would create a new one."""
        described = self._calls.send("GET", self._path("keys"))
        if described.status != 403:
            self._calls.checked(described)
        answer = self._calls.send("POST", self._path("encrypt"), _bound(context, plaintext=_text(inner)))
        found = self._calls.checked(answer).get("ciphertext")
        if not isinstance(found, str):
            raise not_transit()
        return found.encode()

    def unwrap(self, context: EncryptionContext, wrapped: bytes) -> bytes:
        """Decrypt."""
        try:
            ciphertext = wrapped.decode("ascii")
        except UnicodeDecodeError:
            raise WrongContext from None
        answer = self._calls.send("POST", self._path("decrypt"), _bound(context, ciphertext=ciphertext))
        try:
            return base64.b64decode(self._calls.checked(answer).get("plaintext") or "", validate=True)
        except (binascii.Error, ValueError, TypeError):
            raise not_transit() from None

    def version_of(self, wrapped: bytes) -> int | None:
        """Return the version in Transit's text format."""
        return transit_version(wrapped)

    def validate(self) -> Sequence[OpenKcmError]:
        """Check the key's properties and test it; each denied path is named with the policy that allows it."""
        refused: list[str] = []
        try:
            problems = list(self._unsuitable(refused))
            if not any(isinstance(problem, RootKeyDisabled | RootKeyMissing) for problem in problems):
                problems += [*self._round_trip(refused), *self._expiry()]
        except CustomerKeyError as problem:
            return (problem,)
        if refused:
            problems.insert(0, self._denial(refused))
        return problems

    def _unsuitable(self, refused: list[str]) -> Iterator[OpenKcmError]:
        answer = self._calls.send("GET", self._path("keys"))
        if answer.status == 403:
            self._calls.raise_if_token_is_dead(answer)
            refused.append("keys")
            return
        try:
            key = self._calls.checked(answer)
        except (RootKeyMissing, RootKeyDisabled) as problem:
            yield problem
            return
        if key.get("soft_deleted") is True:
            yield soft_deleted()
        if key.get("type") not in _SUITABLE:
            kind = str(key.get("type"))[:40]
            yield RootKeyUnsuitable(f"the key is of type {kind}", f"use one of type {' or '.join(_SUITABLE)}")
        if key.get("convergent_encryption") is True:
            yield RootKeyUnsuitable(
                "the key is convergent: equal service keys would have equal ciphertexts", "use one that is not"
            )
        if key.get("exportable") is True:
            yield RootKeyUnsuitable("the key is exportable from its server", "use one that is not")
        if key.get("allow_plaintext_backup") is True:
            yield RootKeyUnsuitable("the key allows plaintext backups outside its server", "use one that does not")

    def _round_trip(self, refused: list[str]) -> Iterator[OpenKcmError]:
        capabilities = self._capabilities()
        if "create" in capabilities.get("encrypt", ()):
            yield RootKeyUnsuitable(
                "the policy allows create on encrypt: a deleted key would be replaced by a new one",
                self._policy(["encrypt"]),
            )
        unusable = {what for what, found in capabilities.items() if found and not {"update", "root"} & set(found)} & {
            "encrypt",
            "decrypt",
        }
        refused.extend(sorted(unusable, reverse=True))
        if unusable:
            return
        for problem in round_trip_problems(self, self._tenant_id):
            if type(problem) is RootKeyDenied:
                refused.extend(["encrypt", "decrypt"])
            else:
                yield problem

    def _expiry(self) -> Iterator[OpenKcmError]:
        """Yield the problem of a token that cannot be renewed indefinitely; nothing if it may not read itself."""
        if self._place.role_id is not None:
            return
        answer = self._calls.send("GET", "auth/token/lookup-self")
        found = answer.json().get("data") if answer.status == 200 else None
        token = found if isinstance(found, dict) else {}
        if token.get("ttl") and not (token.get("period") and token.get("renewable")):
            yield RootKeyUnsuitable(
                f"the token expires on {str(token.get('expire_time'))[:10]}, which disables the root key",
                "use a periodic token (bao token create -orphan -period=24h -policy=P) or an AppRole",
            )

    def _capabilities(self) -> Mapping[str, Sequence[str]]:
        """Return the token's capabilities on the key's paths; empty where it may not read them."""
        paths = {self._path(what): what for what in ("encrypt", "decrypt", "keys")}
        answer = self._calls.send("POST", "sys/capabilities-self", {"paths": list(paths)})
        if answer.status != 200:
            return {}
        found = answer.json().get("data")
        found = found if isinstance(found, dict) else {}
        return {
            what: [str(one) for one in found.get(path, ())]
            for path, what in paths.items()
            if isinstance(found.get(path, ()), list)
        }

    def _denial(self, refused: list[str]) -> RootKeyDenied:
        names = " and ".join(self._path(what) for what in dict.fromkeys(refused))
        return RootKeyDenied(f"the policy does not allow {names}", self._policy(refused))

    def _policy(self, whats: Sequence[str]) -> str:
        wanted = {"encrypt": "update", "decrypt": "update", "keys": "read"}
        lines = (f'path "{self._path(what)}" {{ capabilities = ["{wanted[what]}"] }}' for what in dict.fromkeys(whats))
        return "add to the policy: " + " ".join(lines)

    def _path(self, what: str) -> str:
        return f"{self._place.mount}/{what}/{self._place.key}"


def _bound(context: EncryptionContext, **fields: str) -> dict[str, str]:
    bound = _text(context.encode())
    return {**fields, "associated_data": bound, "context": bound}


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")
