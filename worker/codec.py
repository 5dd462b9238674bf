"""Encrypts what goes into workflow histories, each tenant's under its own key (AES-256-GCM, RFC 5116).

Which tenant a payload belongs to is read from the workflow id that Temporal itself hands over, not from the payload.
A payload names the Transit key and carries the wrapped data key in its metadata, so that whoever may ask Transit can
open it without any other store. The metadata is authenticated, so a payload cannot be relabelled for another key.
Nonces are random: one data key writes far below the 2^32 messages for which that is safe (NIST SP 800-38D, 8.3).
"""

import os
import re
from collections.abc import Sequence
from copy import copy
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
from worker.keyring import PLATFORM_KEY, Keyring

ENCODING = b"binary/openkcm-aes256gcm"
_NULL = b"binary/null"
_NONCE_BYTES = 12
_KEY_NAME = re.compile(rf"{re.escape(PLATFORM_KEY)}|{ids.payload_key('[a-z0-9][a-z0-9-]{2,39}')}")


class TenantCodec(PayloadCodec, WithSerializationContext):
    def __init__(self, keyring: Keyring, tenant_id: str | None = None) -> None:
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
