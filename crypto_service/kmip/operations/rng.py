"""RNG Retrieve and RNG Seed (KMIP 1.4, sections 4.35 and 4.36): random bytes of the operating system.

Keys are created with the same generator.
"""

import os

from crypto_service.kmip.batch import Batch, Payload
from crypto_service.kmip.codec.errors import invalid
from crypto_service.kmip.codec.fields import number, octets, read_number, read_octets, required
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item

_MOST_BYTES = 65_536
_BYTES_PER_UNIT = 4_096
"""Bytes for which the tenant is charged one unit of `server.limits`; they take about 15 µs to create and encode."""


async def rng_retrieve(batch: Batch, payload: Item) -> Payload:
    size = required(read_number(payload, Tag.DATA_LENGTH), Tag.DATA_LENGTH)
    if not 0 < size <= _MOST_BYTES:
        raise invalid(f"the data length must be from 1 to {_MOST_BYTES}")
    if size >= _BYTES_PER_UNIT:
        batch.charge(size // _BYTES_PER_UNIT)
    batch.bytes = size
    return (octets(Tag.DATA, os.urandom(size)),)


async def rng_seed(batch: Batch, payload: Item) -> Payload:
    """Return that no byte of the seed was used: the generator is shared, and a client must not influence it."""
    batch.bytes = len(required(read_octets(payload, Tag.DATA), Tag.DATA))
    return (number(Tag.DATA_LENGTH, 0),)
