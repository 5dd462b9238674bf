"""The test of every root key: a round trip, and a decryption with another context, which must fail."""

import os
import re
from collections.abc import Iterator

from core import names as ids
from core.errors.keys import CustomerKeyError, RootKeyUnsuitable, WrongContext
from core.keys.encryption_context import EncryptionContext, Purpose
from kms.interfaces import RootKey
from openkcm.errors import OpenKcmError

_BYTES = 32
_TRANSIT = re.compile(rb"vault:v(\d{1,9}):")


def trial_context(tenant_id: str) -> EncryptionContext:
    """Return the context for tests of the tenant's root key, which is used for nothing else."""
    return EncryptionContext(tenant_id, ids.l2_key(tenant_id), "", Purpose.VERIFY, "root-key")


def transit_version(wrapped: bytes) -> int | None:
    """Return the version of the Transit key in the prefix of a ciphertext; None for any other ciphertext."""
    named = _TRANSIT.match(wrapped)
    return None if named is None else int(named[1])


def round_trip_problems(root_key: RootKey, tenant_id: str) -> Iterator[OpenKcmError]:
    """Yield problems with wrap, unwrap and the rejection of another context; stops at one that hides the rest."""
    context, material = trial_context(tenant_id), os.urandom(_BYTES)
    try:
        wrapped = root_key.wrap(context, material)
        if root_key.unwrap(context, wrapped) != material:
            yield RootKeyUnsuitable("the root key does not decrypt its ciphertext to the original value")
    except (CustomerKeyError, WrongContext) as problem:
        yield problem
        return
    try:
        root_key.unwrap(context._replace(object_id="elsewhere"), wrapped)
    except WrongContext:
        return
    except CustomerKeyError as problem:
        yield problem
    else:
        yield RootKeyUnsuitable(
            "the root key decrypts a ciphertext with another context", "use a key server that verifies associated data"
        )
