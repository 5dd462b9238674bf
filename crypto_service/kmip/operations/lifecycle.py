"""Activate, Revoke, Destroy, Archive and Recover (KMIP 1.4, sections 4.19 to 4.23)."""

from dataclasses import replace

from core.errors.keys import KeyNotUsable
from crypto_service.kmip.batch import Batch, Payload
from crypto_service.kmip.codec.enums import RevocationReasonCode, State
from crypto_service.kmip.codec.errors import denied, destroyed, invalid
from crypto_service.kmip.codec.fields import (
    choice,
    moment,
    read_choice,
    read_moment,
    read_structure,
    read_text,
    required,
    structure,
    text,
)
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item
from crypto_service.kmip.objects import attributes as named
from crypto_service.kmip.objects import states
from crypto_service.kmip.objects.managed_object import ManagedObject, require_here, with_changes
from crypto_service.kmip.objects.store import Edit

_LONGEST_MESSAGE = 1024


async def activate(batch: Batch, payload: Item) -> Payload:
    def edit(managed: ManagedObject) -> ManagedObject:
        require_here(managed)
        state = managed.state_at(batch.now)
        if state != State.PRE_ACTIVE:
            raise KeyNotUsable(states.name_of(state))
        attributes = named.with_single(managed.attributes, named.ACTIVATION_DATE, _at(batch.now))
        # A deactivation date in the past deactivates the key in the same moment.
        return with_changes(managed, attributes, batch.now, state=State.ACTIVE)

    return await _apply(batch, payload, edit)


async def revoke(batch: Batch, payload: Item) -> Payload:
    reason = required(read_structure(payload, Tag.REVOCATION_REASON), Tag.REVOCATION_REASON)
    code = required(read_choice(reason, Tag.REVOCATION_REASON_CODE), Tag.REVOCATION_REASON_CODE)
    if code not in set(RevocationReasonCode):
        raise invalid("the revocation reason is not supported")
    message = read_text(reason, Tag.REVOCATION_MESSAGE)
    occurred = read_moment(payload, Tag.COMPROMISE_OCCURRENCE_DATE)

    def edit(managed: ManagedObject) -> ManagedObject:
        if managed.is_destroyed:
            raise destroyed()
        before = managed.state_at(batch.now)
        after = states.after_revocation(before, code)
        attributes = named.with_single(managed.attributes, named.REVOCATION_REASON, _reason(code, message))
        if after == State.COMPROMISED:
            attributes = named.with_single(attributes, named.COMPROMISE_DATE, _at(batch.now))
            since = batch.now if occurred is None else min(occurred, batch.now)
            attributes = named.with_single(attributes, named.COMPROMISE_OCCURRENCE_DATE, _at(since))
        elif before != State.DEACTIVATED:
            attributes = named.with_single(attributes, named.DEACTIVATION_DATE, _at(batch.now))
        return with_changes(managed, attributes, batch.now, state=after)

    return await _apply(batch, payload, edit)


async def destroy(batch: Batch, payload: Item) -> Payload:
    """Destroy the material; the attributes remain, so that a client can read the history of the key."""

    def edit(managed: ManagedObject) -> ManagedObject:
        if managed.is_destroyed:
            raise destroyed()
        after = states.after_destruction(managed.state_at(batch.now))
        attributes = named.with_single(managed.attributes, named.DESTROY_DATE, _at(batch.now))
        ended = with_changes(managed, attributes, batch.now, state=after)
        return replace(ended, row=ended.row._replace(material=None))

    return await _apply(batch, payload, edit)


async def archive(batch: Batch, payload: Item) -> Payload:
    def edit(managed: ManagedObject) -> ManagedObject:
        require_here(managed)
        return with_changes(
            managed, named.with_single(managed.attributes, named.ARCHIVE_DATE, _at(batch.now)), batch.now
        )

    return await _apply(batch, payload, edit)


async def recover(batch: Batch, payload: Item) -> Payload:
    def edit(managed: ManagedObject) -> ManagedObject:
        if managed.is_destroyed:
            raise destroyed()
        if not managed.archived:
            raise denied("the object is not archived")
        return with_changes(managed, named.without(managed.attributes, named.ARCHIVE_DATE), batch.now)

    return await _apply(batch, payload, edit)


async def _apply(batch: Batch, payload: Item, edit: Edit) -> Payload:
    managed = await batch.objects.change(batch.caller, batch.object_id(payload), edit, batch.change_event)
    return (batch.about(managed.row.object_id),)


def _at(seconds: int) -> Item:
    return moment(Tag.ATTRIBUTE_VALUE, seconds)


def _reason(code: int, message: str | None) -> Item:
    parts = [choice(Tag.REVOCATION_REASON_CODE, code)]
    if message is not None:
        parts.append(text(Tag.REVOCATION_MESSAGE, message[:_LONGEST_MESSAGE]))
    return structure(Tag.ATTRIBUTE_VALUE, *parts)
