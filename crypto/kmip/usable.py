"""What every use of an object asks first; whose it is was asked before (`objects`)."""

from core.errors.services import ObjectNotFound
from crypto.kmip import states
from crypto.kmip.enums import ResultReason
from crypto.kmip.managed import Managed
from crypto.kmip.refusals import denied


def require_here(managed: Managed) -> None:
    """Raise ObjectNotFound for what was destroyed, KmipRefused for what is archived."""
    if managed.gone:
        raise ObjectNotFound
    if managed.archived:
        raise denied("the object is archived", ResultReason.OBJECT_ARCHIVED)


def require_usable(managed: Managed, use: int, now: int) -> None:
    """Raise unless the key is here, active, and made for `use` (a bit of the cryptographic usage mask)."""
    require_here(managed)
    states.require_active(managed.state_at(now))
    if not managed.usage_mask & use:
        raise denied("the key's cryptographic usage mask does not allow this")
