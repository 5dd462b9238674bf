"""Encryption of workflow payloads with one key for each tenant (AES-256-GCM, RFC 5116).

The tenant of a payload is read from the workflow id that Temporal passes to the codec, not from the payload. The
metadata of a payload contains the name of the Transit key and the wrapped data key, so a process with access to Transit
can decrypt it without another store. The metadata is authenticated, so a payload cannot be assigned to another key.
Nonces are random: one data key encrypts far fewer than the 2^32 messages for which that is safe (NIST SP 800-38D, 8.3).

Each tenant has one current data key, which its payload key in Transit wraps. Before the payload key exists, the few
payloads of the tenant, which contain only ids, are encrypted under the platform's key. After `learn`, or after the
first payload of the tenant was decrypted here, its payloads are encrypted under the tenant's key. To delete this one
Transit key makes all later payloads of the tenant unreadable, in histories and in backups. Encoding never calls Vault,
so a workflow can raise an alert while Vault is down.

The key server rotates payload keys. A data key that an older version wraps is replaced by `renew`, or by a newer one
that another worker used. Former data keys still decrypt. They are removed only after an offboarding: each is a few
hundred bytes, and a tenant gets a few in a year. Without its data key a tenant's payloads would be encrypted under the
platform's key again.
"""

import asyncio
import os
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import structlog
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from temporalio.api.common.v1 import Payload
from temporalio.contrib.pydantic import PydanticPayloadConverter
from temporalio.converter import (
    ActivitySerializationContext,
    DataConverter,
    PayloadCodec,
    SerializationContext,
    WithSerializationContext,
    WorkflowSerializationContext,
)

from core import names as ids
from core.errors.keys import KeyUnavailable, WrongContext
from core.names import payloads_of_tenant
from openkcm.errors import OpenKcmError
from vault.transit.keys import ciphertext_version
from vault.transit.payload_keys import TransitPayloadKeys

ENCODING = b"binary/openkcm-aes256gcm"
_NULL = b"binary/null"
_NONCE_BYTES = 12

PLATFORM_KEY = "payloads-platform"


log = structlog.get_logger()

_KEY_NAME = re.compile(rf"{re.escape(PLATFORM_KEY)}|{ids.payload_key('[a-z0-9][a-z0-9-]{2,39}')}")


@dataclass(frozen=True, slots=True)
class DataKey:
    """A 32-byte key for AES-256-GCM, and the same key wrapped by the Transit key `key_name`."""

    key_name: str
    wrapped: str
    plain: bytes


class PayloadKeyCache:
    def __init__(self, keys: TransitPayloadKeys) -> None:
        self._keys = keys
        self._lock = threading.Lock()
        self._current: dict[str, DataKey] = {}
        self._unwrapped: dict[str, DataKey] = {}

    def open_platform_key(self) -> None:
        """Fetch the platform's data key; required once, before the first payload is encrypted."""
        self._keep(self._new(PLATFORM_KEY))

    def learn(self, tenant_id: str, data_key: bytes, wrapped: str) -> None:
        """Encrypt the tenant's payloads with this data key; of one version the first learned key stays in use."""
        self._keep(DataKey(ids.payload_key(tenant_id), wrapped, data_key))

    def renew(self) -> None:
        """Replace the data keys that an older version of their Transit key wraps.

        A data key stays in use when its Transit key is disabled, and all do while the key server is unavailable.
        """
        with self._lock:
            names = tuple(self._current)
        for name in names:
            try:
                made = self._new(name)
            except KeyUnavailable as failed:
                log.warning("data key not renewed", key=name, code=failed.code)
                continue
            except OpenKcmError as failed:
                log.warning("data keys not renewed", code=failed.code)
                return
            with self._lock:
                if name in self._current:  # else its tenant was offboarded meanwhile
                    self._adopt(made)

    def forget(self, tenant_id: str) -> None:
        """Remove the tenant's data keys after their Transit key was destroyed; its payloads are unreadable then."""
        name = ids.payload_key(tenant_id)
        with self._lock:
            self._current.pop(name, None)
            self._unwrapped = {wrapped: key for wrapped, key in self._unwrapped.items() if key.key_name != name}

    def current(self, tenant_id: str | None) -> DataKey:
        """Return the data key for encryption; `tenant_id` is None for the platform's workflows."""
        with self._lock:
            platform = self._current.get(PLATFORM_KEY)
            if platform is None:
                raise RuntimeError("open_platform_key was not called")
            return platform if tenant_id is None else self._current.get(ids.payload_key(tenant_id), platform)

    async def open(self, key_name: str, wrapped: str) -> bytes:
        """Return the data key of a payload, from memory or from Vault."""
        with self._lock:
            known = self._unwrapped.get(wrapped)
            if known is not None and known.key_name == key_name:
                return known.plain
        plain = await asyncio.to_thread(self._keys.open_data_key, key_name, wrapped)
        self._keep(DataKey(key_name, wrapped, plain))
        return plain

    def _new(self, key_name: str) -> DataKey:
        plain, wrapped = self._keys.new_data_key(key_name)
        return DataKey(key_name, wrapped, plain)

    def _keep(self, key: DataKey) -> None:
        with self._lock:
            self._adopt(key)

    def _adopt(self, key: DataKey) -> None:
        """Decrypt with a data key, and encrypt with it unless the current one is as new."""
        self._unwrapped[key.wrapped] = key
        current = self._current.get(key.key_name)
        if current is None or ciphertext_version(current.wrapped) < ciphertext_version(key.wrapped):
            self._current[key.key_name] = key


class TenantCodec(PayloadCodec, WithSerializationContext):
    def __init__(self, keyring: PayloadKeyCache, tenant_id: str | None = None) -> None:
        self._keyring = keyring
        self._tenant_id = tenant_id

    def with_context(self, context: SerializationContext) -> Self:
        """Return the codec of the tenant whose workflow the context names."""
        workflow_id = None
        if isinstance(context, WorkflowSerializationContext | ActivitySerializationContext):
            workflow_id = context.workflow_id
        tenant_id = payloads_of_tenant(workflow_id or "")
        return self if tenant_id == self._tenant_id else type(self)(self._keyring, tenant_id)

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Encrypt all payloads except null: clients without a key must recognise a call without a result."""
        key = self._keyring.current(self._tenant_id)
        cipher = AESGCM(key.plain)
        encoded = []
        for payload in payloads:
            if payload.metadata.get("encoding") == _NULL:
                encoded.append(payload)
                continue
            nonce = os.urandom(_NONCE_BYTES)
            ciphertext = cipher.encrypt(nonce, payload.SerializeToString(), _bound(key.key_name, key.wrapped))
            metadata = {"encoding": ENCODING, "key": key.key_name.encode(), "data-key": key.wrapped.encode()}
            encoded.append(Payload(metadata=metadata, data=nonce + ciphertext))
        return encoded

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Decrypt the payloads of this codec; return all others unchanged (the marketplace sends plain ids)."""
        return [await self._decode(payload) for payload in payloads]

    async def _decode(self, payload: Payload) -> Payload:
        if payload.metadata.get("encoding") != ENCODING:
            return payload
        key_name, wrapped = _label(payload)
        plain = await self._keyring.open(key_name, wrapped)
        nonce, ciphertext = payload.data[:_NONCE_BYTES], payload.data[_NONCE_BYTES:]
        try:
            return Payload.FromString(AESGCM(plain).decrypt(nonce, ciphertext, _bound(key_name, wrapped)))
        except InvalidTag:
            raise WrongContext from None


def _label(payload: Payload) -> tuple[str, str]:
    """Return the Transit key and the wrapped data key in a payload's metadata, which is untrusted input.

    Raises:
        WrongContext: the name is not that of a payload key. No other name may become part of a request to Vault.
    """
    try:
        key_name, wrapped = payload.metadata["key"].decode("ascii"), payload.metadata["data-key"].decode("ascii")
    except UnicodeDecodeError:
        raise WrongContext from None
    if not _KEY_NAME.fullmatch(key_name):
        raise WrongContext
    return key_name, wrapped


class SharedPydanticConverter(PydanticPayloadConverter):
    """A converter of Pydantic models to JSON; all instances share their stateless parts.

    The SDK creates an instance for each workflow and two for each workflow task. The shared parts are expensive to
    create and cache the models, so they are created once.
    """

    _shared = PydanticPayloadConverter()

    def __init__(self) -> None:
        self.converters = self._shared.converters


class TenantConverter(DataConverter):
    """Pydantic models, encrypted by `TenantCodec`.

    The SDK requests a converter with a context for each payload. Only the codec depends on the context, so all else is
    shared; to build it again took a sixth of the worker's time.
    """

    def __init__(self, codec: TenantCodec) -> None:
        super().__init__(payload_converter_class=SharedPydanticConverter, payload_codec=codec)

    def with_context(self, context: SerializationContext) -> Self:
        """Return a converter that encrypts for the tenant whose workflow the context names."""
        codec = self.payload_codec.with_context(context) if isinstance(self.payload_codec, TenantCodec) else None
        if codec is self.payload_codec:
            return self
        converter = object.__new__(type(self))  # `copy` takes several times as long
        converter.__dict__.update(self.__dict__, payload_codec=codec)
        return converter


def _bound(key_name: str, wrapped: str) -> bytes:
    # A Transit key name has no line break, so the encoding of the parts is unambiguous.
    return b"\n".join((ENCODING, key_name.encode(), wrapped.encode()))
