"""What every root key is tried with: a round trip, and that another context is refused; and how a wrap is read."""

import os
import re
from collections.abc import Iterator
from dataclasses import replace

from core import names as ids
from core.errors.keys import CustomerKeyError, RootKeyUnsuitable, WrongContext
from core.keys.encryption_context import EncryptionContext, Purpose
from kms.interfaces import RootKey
from openkcm.errors import OpenKcmError

_BYTES = 32
_TRANSIT = re.compile(rb"vault:v(\d{1,9}):")


def trial_context(tenant_id: str) -> EncryptionContext:
    """Return the context that the tenant's root key is tried with, and nothing else is wrapped in."""
    return EncryptionContext(tenant_id, ids.l2_key(tenant_id), "", Purpose.VERIFY, "root-key")


def transit_version(wrapped: bytes) -> int | None:
    """Return the version of the Transit key that a ciphertext names in front; None when it is no such ciphertext."""
    named = _TRANSIT.match(wrapped)
    return None if named is None else int(named[1])


def round_trip_problems(root_key: RootKey, tenant_id: str) -> Iterator[OpenKcmError]:
    """Yield what is wrong with wrapping, unwrapping and the refusal of another context, up to what hides the rest."""
    context, material = trial_context(tenant_id), os.urandom(_BYTES)
    try:
        wrapped = root_key.wrap(context, material)
        if root_key.unwrap(context, wrapped) != material:
            yield RootKeyUnsuitable("the root key does not give back what it took")
    except (CustomerKeyError, WrongContext) as problem:
        yield problem
        return
    try:
        root_key.unwrap(replace(context, object_id="elsewhere"), wrapped)
    except WrongContext:
        return
    except CustomerKeyError as problem:
        yield problem
    else:
        yield RootKeyUnsuitable(
            "the root key opens what belongs to another context", "use a key server that honours associated data"
        )
