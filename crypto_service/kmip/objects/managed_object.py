"""A managed object as the operations use it: its row, its attributes, and the checks before each use.

`store` has checked before that the object belongs to the caller.
"""

from dataclasses import dataclass

from crypto_service.kmip.codec.enums import CryptographicUsageMask, ObjectType, ResultReason, State
from crypto_service.kmip.codec.errors import denied, destroyed, invalid
from crypto_service.kmip.codec.fields import choice, flag, interval, moment, read_choice, read_long, text
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item
from crypto_service.kmip.objects import attributes as named
from crypto_service.kmip.objects import states
from crypto_service.kmip.objects.attributes import Attribute, Attributes
from database.services.managed_objects import ObjectRow

LEASE_SECONDS = 3600
_MOST_STORED = 60_000
_MOST_NAMES = 16_000
_EARLIER = "the date can be set only while the key is pre-active or active"
_PROCESSING = (
    CryptographicUsageMask.DECRYPT
    | CryptographicUsageMask.VERIFY
    | CryptographicUsageMask.UNWRAP_KEY
    | CryptographicUsageMask.MAC_VERIFY
)
"""The uses that process protected data; every other use protects data, also the derivation of a key."""


@dataclass(frozen=True, slots=True)
class ManagedObject:
    row: ObjectRow
    attributes: Attributes
    activation: int | None
    deactivation: int | None
    process_start: int | None
    protect_stop: int | None
    usage_mask: int
    gcm_invocations: int
    archived: bool
    fresh: bool
    sensitive: bool
    extractable: bool

    def state_at(self, now: float) -> int:
        """Return the key's state at `now`; an object without a state has 0, and Destroyed after its destruction."""
        return states.state_at(self.row.state, self.activation, self.deactivation, now)

    @property
    def is_destroyed(self) -> bool:
        """Whether the object was destroyed; only its attributes remain."""
        return self.row.material is None

    def all_attributes(self, now: float) -> Attributes:
        """Return the stored attributes and those that are not stored."""
        row = self.row
        own = [
            Attribute(named.UNIQUE_IDENTIFIER, 0, text(Tag.ATTRIBUTE_VALUE, row.object_id)),
            Attribute(named.OBJECT_TYPE, 0, choice(Tag.ATTRIBUTE_VALUE, row.object_type)),
            Attribute(named.LEASE_TIME, 0, interval(Tag.ATTRIBUTE_VALUE, LEASE_SECONDS)),
        ]
        if not is_stateless(row.object_type):
            own.append(Attribute(named.STATE, 0, choice(Tag.ATTRIBUTE_VALUE, self.state_at(now))))
        digest = named.first(self.attributes, named.DIGEST)
        form = None if digest is None else read_choice(digest, Tag.KEY_FORMAT_TYPE)
        if form is not None:
            own.append(Attribute(named.KEY_FORMAT_TYPE, 0, choice(Tag.ATTRIBUTE_VALUE, form)))
        return (*own, *self.attributes)

    def usage_left(self) -> int | None:
        """Return how many bytes or objects may still be protected; None without a limit."""
        limits = named.first(self.attributes, named.USAGE_LIMITS)
        return None if limits is None else read_long(limits, Tag.USAGE_LIMITS_COUNT)

    def usage_unit(self) -> int | None:
        limits = named.first(self.attributes, named.USAGE_LIMITS)
        return None if limits is None else read_choice(limits, Tag.USAGE_LIMITS_UNIT)


def from_row(row: ObjectRow) -> ManagedObject:
    """Return the object of a row."""
    return _read(row, _with_exposure(named.decode(row.attributes), new=False))


def new(row: ObjectRow, attributes: Attributes, now: int) -> ManagedObject:
    """Return a new object for a row; fills in the attributes and names of the row."""
    for name in (named.INITIAL_DATE, named.LAST_CHANGE_DATE):
        attributes = named.with_single(attributes, name, moment(Tag.ATTRIBUTE_VALUE, now))
    return _stored(row, _with_exposure(attributes, new=True))


def with_changes(
    managed: ManagedObject, attributes: Attributes, now: int, *, state: int | None = None
) -> ManagedObject:
    """Return the object with new attributes, in `state` or in the state that results from its dates.

    Storing the state that results from the dates makes it final: a later change of a date cannot revert it.
    """
    attributes = named.with_single(attributes, named.LAST_CHANGE_DATE, moment(Tag.ATTRIBUTE_VALUE, now))
    row = managed.row._replace(state=managed.state_at(now) if state is None else state)
    return _stored(row, attributes)


def check_change(managed: ManagedObject, name: str, value: Item | None, now: int) -> None:
    """Raise KmipRefused unless a client may now set `name` to `value`, or delete it (None)."""
    if managed.archived:
        raise denied("an archived object cannot be changed")
    if name in named.DATES:
        begun = (named.ACTIVATION_DATE,)
        allowed = (State.PRE_ACTIVE,) if name in begun else states.UNUSED
        if managed.state_at(now) not in allowed:
            raise denied(_EARLIER, exact=ResultReason.WRONG_KEY_LIFECYCLE_STATE)
    elif name == named.SENSITIVE and value is not None and managed.sensitive and not value.value:
        raise denied("the attribute Sensitive cannot be reset")
    elif name == named.EXTRACTABLE and value is not None and not managed.extractable and value.value:
        raise denied("the attribute Extractable cannot be set again")
    elif name == named.USAGE_LIMITS:
        _check_limits_change(managed, now)


def _check_limits_change(managed: ManagedObject, now: int) -> None:
    """Raise KmipRefused unless a client may now set or delete the usage limits.

    Limits in use cannot be changed (KMIP 1.4, section 3.21): a client could use the key without limit.
    """
    if managed.state_at(now) not in (*states.UNUSED, states.STATELESS):
        message = "usage limits can be set only while the key is pre-active or active"
        raise denied(message, exact=ResultReason.WRONG_KEY_LIFECYCLE_STATE)
    limits = named.first(managed.attributes, named.USAGE_LIMITS)
    if limits is not None and read_long(limits, Tag.USAGE_LIMITS_TOTAL) != managed.usage_left():
        raise named.read_only("the usage limits cannot be changed after the first use of the key")


def is_stateless(object_type: int) -> bool:
    """Return whether objects of this type have no state."""
    return object_type in (ObjectType.TEMPLATE, ObjectType.OPAQUE_OBJECT)


def _with_exposure(attributes: Attributes, *, new: bool) -> Attributes:
    """Return the attributes with the four that every object has (KMIP 1.4, sections 3.48 to 3.51), adding missing ones.

    A restriction of a `new` object applies from its creation. Clients can add restrictions but not remove them, so
    Always Sensitive and Never Extractable are never changed. For an object that was stored before the server had these
    attributes the beginning of a restriction is unknown, so both are false.
    """
    if named.first(attributes, named.NEVER_EXTRACTABLE) is not None and not new:
        return attributes
    sensitive = named.is_set(attributes, named.SENSITIVE, default=False)
    extractable = named.is_set(attributes, named.EXTRACTABLE, default=True)
    values = (
        (named.SENSITIVE, sensitive),
        (named.ALWAYS_SENSITIVE, sensitive and new),
        (named.EXTRACTABLE, extractable),
        (named.NEVER_EXTRACTABLE, not extractable and new),
    )
    for name, value in values:
        if named.first(attributes, name) is None:
            attributes = named.with_single(attributes, name, flag(Tag.ATTRIBUTE_VALUE, value=value))
    return attributes


def _stored(row: ObjectRow, attributes: Attributes) -> ManagedObject:
    names = named.names(attributes)
    encoded = named.encode(attributes)
    if len(encoded) > _MOST_STORED or sum(map(len, names)) > _MOST_NAMES:
        raise invalid("the attributes of the object are too large")
    return _read(row._replace(names=names, attributes=encoded), attributes)


def _read(row: ObjectRow, attributes: Attributes) -> ManagedObject:
    # The first instance counts; none of these attributes has more than one.
    found = {name: value.value for name, _, value in reversed(attributes)}

    def integer(name: str) -> int | None:
        value = found.get(name)
        return value if isinstance(value, int) else None

    return ManagedObject(
        row=row,
        attributes=attributes,
        activation=integer(named.ACTIVATION_DATE),
        deactivation=integer(named.DEACTIVATION_DATE),
        process_start=integer(named.PROCESS_START_DATE),
        protect_stop=integer(named.PROTECT_STOP_DATE),
        usage_mask=integer(named.USAGE_MASK) or 0,
        gcm_invocations=integer(named.GCM_INVOCATIONS) or 0,
        archived=named.ARCHIVE_DATE in found,
        fresh=found.get(named.FRESH) is True,
        sensitive=found.get(named.SENSITIVE) is True,
        extractable=found.get(named.EXTRACTABLE) is not False,
    )


def require_here(managed: ManagedObject) -> None:
    """Raise KmipRefused for a destroyed or archived object."""
    if managed.is_destroyed:
        raise destroyed()
    if managed.archived:
        raise denied("the object is archived", ResultReason.OBJECT_ARCHIVED)


def require_usable(managed: ManagedObject, use: int, now: int) -> None:
    """Raise unless the key exists, is active, and permits `use` (a bit of the cryptographic usage mask) at `now`.

    Data may be processed from the Process Start Date on (KMIP 1.4, section 3.25).
    """
    require_here(managed)
    states.require_active(managed.state_at(now))
    if not managed.usage_mask & use:
        message = "the key's cryptographic usage mask does not permit this"
        raise denied(message, exact=ResultReason.INCOMPATIBLE_CRYPTOGRAPHIC_USAGE_MASK)
    if not use & _PROCESSING:
        require_protecting(managed, now)
    elif managed.process_start is not None and managed.process_start > now:
        raise denied("the key's process start date has not been reached", exact=ResultReason.WRONG_KEY_LIFECYCLE_STATE)


def require_protecting(managed: ManagedObject, now: int) -> None:
    """Raise KmipRefused when the Protect Stop Date has passed (KMIP 1.4, section 3.26)."""
    if managed.protect_stop is not None and managed.protect_stop <= now:
        raise denied("the key's protect stop date has passed", exact=ResultReason.WRONG_KEY_LIFECYCLE_STATE)
