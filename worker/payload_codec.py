"""Encrypts what goes into workflow histories, each tenant's under its own key (AES-256-GCM, RFC 5116).

Which tenant a payload belongs to is read from the workflow id that Temporal itself hands over, not from the payload.
A payload names the Transit key and carries the wrapped data key in its metadata, so that whoever may ask Transit can
open it without any other store. The metadata is authenticated, so a payload cannot be relabelled for another key.
Nonces are random: one data key writes far below the 2^32 messages for which that is safe (NIST SP 800-38D, 8.3).

Data keys for workflow payloads: one per tenant, wrapped by the tenant's own payload key in Transit.

Until a tenant's payload key exists its few payloads, which carry ids only, lie under the platform's key. From
`learn` on (or from the first payload of the tenant that is opened here) they lie under the tenant's, so deleting that
one Transit key makes every later payload of the tenant unreadable, in histories and in backups alike. Nothing here
asks Vault while a payload is written: an alarm can be raised in a workflow while Vault is down. Nothing is evicted
but on purpose, when a tenant has left: a tenant has one data key of a few hundred bytes, and forgetting it puts its
payloads back under the platform's.
"""

import asyncio
import os
import re
import threading
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Self

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
from core.errors.keys import WrongContext
from core.names import payloads_of_tenant
from vault.transit.payload_keys import TransitPayloadKeys

ENCODING = b"binary/openkcm-aes256gcm"
_NULL = b"binary/null"
_NONCE_BYTES = 12

PLATFORM_KEY = "payloads-platform"


_KEY_NAME = re.compile(rf"{re.escape(PLATFORM_KEY)}|{ids.payload_key('[a-z0-9][a-z0-9-]{2,39}')}")


@dataclass(frozen=True, slots=True)
class DataKey:
    """32 bytes for AES-256-GCM, beside the same bytes wrapped by the Transit key `key_name`."""

    key_name: str
    wrapped: str
    plain: bytes


class PayloadKeyCache:
    def __init__(self, keys: TransitPayloadKeys) -> None:
        self._keys = keys
        self._lock = threading.Lock()
        self._platform: DataKey | None = None
        self._current: dict[str, DataKey] = {}
        self._opened: dict[str, DataKey] = {}

    def open_platform_key(self) -> None:
        """Fetch the platform's data key; needed once, before the first payload is written."""
        plain, wrapped = self._keys.new_data_key(PLATFORM_KEY)
        self._platform = DataKey(PLATFORM_KEY, wrapped, plain)

    def learn(self, tenant_id: str, data_key: bytes, wrapped: str) -> None:
        """Use this data key for the tenant from now on; the first one learned stays."""
        self._keep(DataKey(ids.payload_key(tenant_id), wrapped, data_key))

    def forget(self, tenant_id: str) -> None:
        """Forget the tenant's data keys, whose Transit key is destroyed: nothing here opens its payloads any more."""
        name = ids.payload_key(tenant_id)
        with self._lock:
            self._current.pop(name, None)
            self._opened = {wrapped: key for wrapped, key in self._opened.items() if key.key_name != name}

    def current(self, tenant_id: str | None) -> DataKey:
        """Return the key to write a payload with; `tenant_id` is None for the platform's own workflows."""
        if self._platform is None:
            raise RuntimeError("open_platform_key was not called")
        if tenant_id is None:
            return self._platform
        with self._lock:
            return self._current.get(ids.payload_key(tenant_id), self._platform)

    async def open(self, key_name: str, wrapped: str) -> bytes:
        """Return the data key a payload was written with, from memory or from Vault."""
        with self._lock:
            known = self._opened.get(wrapped)
            if known is not None and known.key_name == key_name:
                return known.plain
        if self._platform is not None and (key_name, wrapped) == (self._platform.key_name, self._platform.wrapped):
            return self._platform.plain
        plain = await asyncio.to_thread(self._keys.open_data_key, key_name, wrapped)
        self._keep(DataKey(key_name, wrapped, plain))
        return plain

    def _keep(self, key: DataKey) -> None:
        with self._lock:
            if key.key_name != PLATFORM_KEY:
                self._current.setdefault(key.key_name, key)
            self._opened[key.wrapped] = key


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
        """Encrypt; what is empty stays empty, so that those without a key can tell that a call returned nothing."""
        key = self._keyring.current(self._tenant_id)
        cipher = AESGCM(key.plain)
        encoded = []
        for payload in payloads:
            if payload.metadata.get("encoding") == _NULL:
                encoded.append(payload)
                continue
            nonce = os.urandom(_NONCE_BYTES)
            sealed = cipher.encrypt(nonce, payload.SerializeToString(), _bound(key.key_name, key.wrapped))
            metadata = {"encoding": ENCODING, "key": key.key_name.encode(), "data-key": key.wrapped.encode()}
            encoded.append(Payload(metadata=metadata, data=nonce + sealed))
        return encoded

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Decrypt what this codec wrote and pass on what others wrote (the marketplace's ids are plain)."""
        return [await self._decode(payload) for payload in payloads]

    async def _decode(self, payload: Payload) -> Payload:
        if payload.metadata.get("encoding") != ENCODING:
            return payload
        key_name, wrapped = _label(payload)
        plain = await self._keyring.open(key_name, wrapped)
        nonce, sealed = payload.data[:_NONCE_BYTES], payload.data[_NONCE_BYTES:]
        try:
            return Payload.FromString(AESGCM(plain).decrypt(nonce, sealed, _bound(key_name, wrapped)))
        except InvalidTag:
            raise WrongContext from None


def _label(payload: Payload) -> tuple[str, str]:
    """Return the Transit key and the wrapped data key a payload names; anybody may have written them.

    Raises:
        WrongContext: it names what is no payload key. Only a payload key's name may become part of a request to Vault.
    """
    try:
        key_name, wrapped = payload.metadata["key"].decode("ascii"), payload.metadata["data-key"].decode("ascii")
    except UnicodeDecodeError:
        raise WrongContext from None
    if not _KEY_NAME.fullmatch(key_name):
        raise WrongContext
    return key_name, wrapped


class SharedPydanticConverter(PydanticPayloadConverter):
    """Pydantic models as JSON, with one set of converters for all.

    The SDK makes a converter of this class for each workflow it runs and twice for each of its tasks. What is in one
    depends on nothing but is dear to make, and remembers the models it has met, so all have the same.
    """

    _made = PydanticPayloadConverter()

    def __init__(self) -> None:
        self.converters = self._made.converters


class TenantConverter(DataConverter):
    """Pydantic models, encrypted by `TenantCodec`.

    The SDK asks for a converter with a context for every single payload. Of what ours is made of only the codec
    depends on it, so the rest is shared instead of built anew, which took a sixth of the worker's time.
    """

    def __init__(self, codec: TenantCodec) -> None:
        super().__init__(payload_converter_class=SharedPydanticConverter, payload_codec=codec)

    def with_context(self, context: SerializationContext) -> Self:
        """Return a converter that encrypts for the tenant whose workflow the context names."""
        codec = self.payload_codec.with_context(context) if isinstance(self.payload_codec, TenantCodec) else None
        if codec is self.payload_codec:
            return self
        mine: Self = copy(self)
        object.__setattr__(mine, "payload_codec", codec)
        return mine


def _bound(key_name: str, wrapped: str) -> bytes:
    # Transit names hold no line break, so the two parts cannot be shifted into one another.
    return b"\n".join((ENCODING, key_name.encode(), wrapped.encode()))
