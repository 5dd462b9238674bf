"""The limit of AES-GCM with random nonces: 2^32 invocations of a key (SP 800-38D, section 8.3).

An invocation is counted with a probability of 2^-16, and then counts as 2^16. The count is an attribute of the key in
the database, so all processes share it, a restart loses none of it, and no process keeps a part of it in memory. An
encryption costs two random bytes, and every 65,536th on average also a write.

The limit is 15/16 of 2^32. Of 2^32 invocations 65,536 are counted on average, with a standard deviation of 256. The
probability that only 61,440 are counted is below 10^-50, while two of 2^32 random nonces are equal with 2^-33.
"""

import os

from crypto_service.keys.primitives import GCM_NONCE
from crypto_service.kmip.batch import Batch
from crypto_service.kmip.codec.errors import denied
from crypto_service.kmip.codec.fields import long
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.objects import attributes as named
from crypto_service.kmip.objects.managed_object import ManagedObject, with_changes

SAMPLE_BYTES = 2
"""An invocation is counted when so many random bytes are all zero."""
MOST_INVOCATIONS = 2**32 // 16 * 15


async def count_gcm_invocation(batch: Batch, managed: ManagedObject, given_nonce: bytes | None) -> None:
    """Count one GCM encryption or GMAC; raise KmipRefused above the limit, unless the client gives a nonce of 12 bytes.

    SP 800-38D has no limit for nonces of 12 bytes that are constructed, for example with a counter. Random ones and
    those of another size, which GCM hashes, can collide.
    """
    limited = given_nonce is None or len(given_nonce) != GCM_NONCE
    if limited:
        _require_below_limit(managed)
    if any(os.urandom(SAMPLE_BYTES)):
        return

    def edit(current: ManagedObject) -> ManagedObject:
        if limited:
            _require_below_limit(current)
        count = long(Tag.ATTRIBUTE_VALUE, current.gcm_invocations + 256**SAMPLE_BYTES)
        return with_changes(current, named.with_single(current.attributes, named.GCM_INVOCATIONS, count), batch.now)

    await batch.objects.change(batch.caller, managed.row.object_id, edit, batch.change_event)


def _require_below_limit(managed: ManagedObject) -> None:
    if managed.gcm_invocations >= MOST_INVOCATIONS:
        raise denied("the key was used for as many random GCM nonces as SP 800-38D permits (2^32); re-key it")
