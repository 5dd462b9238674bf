"""HYOK: an AES key in the customer's PKCS #11 token, which encrypts and decrypts and never exports it.

AES-GCM with the context as associated data. The 96-bit initialisation vector is random and generated here. One key
wraps thousands of service keys, far below the 2^32 messages that SP 800-38D allows, so no vector repeats. A wrap is a
version byte, the vector, and the ciphertext with its 128-bit tag.

Modules report few and different reasons for failures. The meaning of a failure is therefore determined by tests: is the
token present, is the key's use permitted, does it work with other data.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar, cast

import pkcs11
from pkcs11 import Attribute, GCMParams, KeyType, Mechanism, ObjectClass, exceptions

from core.errors.keys import (
    CustomerKeyError,
    RootKeyDisabled,
    RootKeyMissing,
    RootKeyRefused,
    RootKeyServerError,
    RootKeyUnreachable,
    RootKeyUnsuitable,
    WrongContext,
)
from core.keys.encryption_context import EncryptionContext
from core.keys.root_keys import Credentials, Pkcs11KeyRef
from kms.egress_policy import EgressPolicy
from kms.interfaces import RootKey
from kms.pkcs11.module import Module
from kms.pkcs11.worker_thread import ModuleThread
from kms.self_test import round_trip_problems
from openkcm.errors import OpenKcmError

T = TypeVar("T")
_VERSION = b"\x01"
_IV_BYTES = 12
_TAG_BYTES = 16
_KEY_BYTES = 32
_UNSUITABLE = (
    exceptions.MechanismInvalid,
    exceptions.MechanismParamInvalid,
    exceptions.KeyTypeInconsistent,
    exceptions.KeySizeRange,
    exceptions.FunctionNotSupported,
)


@dataclass(frozen=True, slots=True)
class _Threaded:
    module: Module
    thread: ModuleThread


class Pkcs11:
    """The provider: one module, which the operator configures, and the only thread that calls it."""

    def __init__(self, reach: EgressPolicy) -> None:
        self._module = None if reach.pkcs11_module is None else _module_at(reach.pkcs11_module)
        self._tokens = reach.pkcs11_tokens
        self._timeout = reach.timeout_seconds

    def open(self, tenant_id: str, place: Pkcs11KeyRef, credentials: Credentials) -> RootKey:
        """Return the root key; no module is loaded yet.

        Raises RootKeyRefused where no module is configured, and for a token of no tenant or of another one: all tenants
        share the module, and wrong PINs lock a token. Whether such a token exists is not disclosed.
        """
        if self._module is None or credentials.pin is None:
            raise RootKeyRefused("provider: no PKCS #11 module is configured", "ask the operator to set pkcs11_module")
        if self._tokens.get(place.token) != tenant_id:
            raise RootKeyRefused(
                "token: no token with this label is assigned to the tenant", "ask the operator to set pkcs11_tokens"
            )
        return Pkcs11RootKey(tenant_id, place, credentials, self._module, self._timeout)


@cache
def _module_at(path: Path) -> _Threaded:
    """Return the module with its thread: one for the process, because the module has one state per process."""
    return _Threaded(Module(path), ModuleThread())


class Pkcs11RootKey:
    """An `interfaces.RootKey` in a token; each operation finds the key by its label, which detects any change."""

    def __init__(
        self, tenant_id: str, place: Pkcs11KeyRef, credentials: Credentials, threaded: _Threaded, timeout_seconds: float
    ) -> None:
        self._tenant_id = tenant_id
        self._place = place
        self._credentials = credentials
        self._module = threaded.module
        self._thread = threaded.thread
        self._timeout = timeout_seconds

    def wrap(self, context: EncryptionContext, inner: bytes) -> bytes:
        """Encrypt in the token."""
        associated = context.encode()
        return self._in_module(lambda: self._wrap(associated, inner))

    def unwrap(self, context: EncryptionContext, wrapped: bytes) -> bytes:
        """Decrypt in the token."""
        if wrapped[:1] != _VERSION or len(wrapped) <= 1 + _IV_BYTES + _TAG_BYTES:
            raise WrongContext
        associated = context.encode()
        return self._in_module(lambda: self._unwrap(associated, wrapped))

    def version_of(self, wrapped: bytes) -> int | None:
        """Return None, because a key in a token has one version."""
        del wrapped
        return None

    def validate(self) -> Sequence[OpenKcmError]:
        """Verify the PIN again, check token and key, then test the key."""
        try:
            problems = self._thread.run(lambda: list(self._unsuitable()), self._timeout)
            if not any(isinstance(problem, RootKeyDisabled) for problem in problems):
                problems += round_trip_problems(self, self._tenant_id)
        except CustomerKeyError as problem:
            return (problem,)
        return problems

    # The following methods run in the module's thread.

    def _in_module(self, use: Callable[[], T]) -> T:
        return self._thread.run(lambda: self._with_session(use), self._timeout)

    def _with_session(self, use: Callable[[], T]) -> T:
        """Use the token; an ended session is replaced once, because another tenant's login may have ended it."""
        try:
            return use()
        except exceptions.PKCS11Error as failure:
            self._module.forget(self._place.token)
            if not self._module.is_lost(failure):
                raise RootKeyServerError("the token fails", "check the log of the token or its module") from None
        try:
            return use()
        except exceptions.PKCS11Error:
            self._module.forget(self._place.token)
        raise RootKeyUnreachable(f"the token {self._place.token} does not respond", "check its connection")

    def _wrap(self, associated: bytes, inner: bytes) -> bytes:
        key = self._key()
        try:
            return _encrypt(key, associated, inner)
        except _UNSUITABLE:
            raise RootKeyUnsuitable("the key cannot encrypt by AES-GCM", "use an AES key in a token that can") from None

    def _unwrap(self, associated: bytes, wrapped: bytes) -> bytes:
        key = self._key()
        try:
            return _decrypt(key, associated, wrapped)
        except _UNSUITABLE:
            raise RootKeyUnsuitable("the key cannot decrypt by AES-GCM", "use an AES key in a token that can") from None
        except exceptions.PKCS11Error:
            # If the key decrypts its own new ciphertext it works, and the given ciphertext belongs to another key.
            if _decrypt(key, b"", _encrypt(key, b"", _VERSION)) != _VERSION:
                raise
        raise WrongContext

    def _key(self, *, verify_pin: bool = False) -> pkcs11.SecretKey:
        place, pin = self._place, self._credentials.pin
        session = self._module.session(place.token, pin.get_secret_value() if pin else "", verify_pin=verify_pin)
        wanted = {Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.LABEL: place.key}
        found = list(session.get_objects(wanted))
        if len(found) == 1 and isinstance(found[0], pkcs11.SecretKey):
            return found[0]
        if len(found) > 1:
            raise RootKeyUnsuitable(f"the token has {len(found)} keys {place.key}", "keep one key with that label")
        if not self._module.is_present(place.token):
            self._module.forget(place.token)
            raise RootKeyUnreachable(f"the token {place.token} was removed", "check its connection")
        raise RootKeyMissing(f"the token has no secret key {place.key}", "check its label, or restore it")

    def _unsuitable(self) -> Iterator[OpenKcmError]:
        key = self._with_session(lambda: self._key(verify_pin=True))
        if Mechanism.AES_GCM not in key.session.token.slot.get_mechanisms():
            yield RootKeyUnsuitable("the token lacks the mechanism CKM_AES_GCM", "use a token that has it")
        if _attribute(key, Attribute.KEY_TYPE) is not KeyType.AES:
            yield RootKeyUnsuitable("the key is not of type CKK_AES", "use an AES key")
        elif _attribute(key, Attribute.VALUE_LEN) != _KEY_BYTES:
            yield RootKeyUnsuitable("the key does not have 256 bits", "use an AES key of 256 bits")
        off = [name for name, what in _USES.items() if _attribute(key, what) is False]
        if off:
            yield RootKeyDisabled(f"{' and '.join(off)} of the root key {'are' if len(off) > 1 else 'is'} off")
        if _attribute(key, Attribute.SENSITIVE) is False:
            yield RootKeyUnsuitable("the key is not sensitive: its value can be read", "set CKA_SENSITIVE")
        if _attribute(key, Attribute.EXTRACTABLE) is True:
            yield RootKeyUnsuitable("the key is extractable from its token", "create a key with CKA_EXTRACTABLE off")


_USES = {"CKA_ENCRYPT": Attribute.ENCRYPT, "CKA_DECRYPT": Attribute.DECRYPT}


def _encrypt(key: pkcs11.SecretKey, associated: bytes, inner: bytes) -> bytes:
    if not isinstance(key, pkcs11.EncryptMixin):
        raise RootKeyDisabled("CKA_ENCRYPT of the root key is off")
    iv = os.urandom(_IV_BYTES)
    ciphertext = key.encrypt(
        inner, mechanism=Mechanism.AES_GCM, mechanism_param=GCMParams(iv, associated, 8 * _TAG_BYTES)
    )
    return _VERSION + iv + cast("bytes", ciphertext)


def _decrypt(key: pkcs11.SecretKey, associated: bytes, wrapped: bytes) -> bytes:
    if not isinstance(key, pkcs11.DecryptMixin):
        raise RootKeyDisabled("CKA_DECRYPT of the root key is off")
    iv, ciphertext = wrapped[1 : 1 + _IV_BYTES], wrapped[1 + _IV_BYTES :]
    plaintext = key.decrypt(
        ciphertext, mechanism=Mechanism.AES_GCM, mechanism_param=GCMParams(iv, associated, 8 * _TAG_BYTES)
    )
    return cast("bytes", plaintext)


def _attribute(key: pkcs11.SecretKey, name: Attribute) -> object:
    """Return an attribute; None if the token does not disclose it."""
    try:
        found: object = key[name]
    except exceptions.PKCS11Error:
        return None
    return found
