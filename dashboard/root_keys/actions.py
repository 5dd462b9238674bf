"""Actions on the root key from the dashboard: preflight and change.

Credentials are in this process only until they are encrypted, which happens before anything is stored or requested.
Only the worker can decrypt the result, and only for this tenant and this request.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from uuid import uuid4

from config.credential_encryption import encrypt_credentials
from core.errors.tenants import TenantNotOperational, TenantUnknown
from core.keys.root_keys import (
    Credentials,
    Place,
    PlatformKeyRef,
    Problem,
    RootKeyMode,
    parse_credentials,
    parse_place,
    refuse_incomplete,
)
from core.tenants.approvals import Action, Approval, parse_reason
from core.tenants.lifecycle import DECRYPTS, State
from core.tenants.locks import may_change_root_key
from core.tenants.roles import Permission
from dashboard.approvals import actions as approval_actions
from dashboard.page_context import PageContext, ask, require
from database.root_keys import RootKeyRequestRow
from database.tenants import TenantRow
from openkcm.contract.audit_events import AuditName
from workflows.client.updates import OperationTimeout

_REQUESTS = 12
_DESTINATIONS: Mapping[RootKeyMode, tuple[str, ...]] = MappingProxyType(
    {
        RootKeyMode.PLATFORM: (),
        RootKeyMode.AWS_KMS: ("role_arn",),
        RootKeyMode.PKCS11: ("token",),
        RootKeyMode.OPENBAO: ("address", "ca_pem", "role_id"),
    }
)
"""Fields that decide where credentials are sent and which are needed. AWS receives signatures, never the secret key."""


@dataclass(frozen=True, slots=True)
class RootKeyChangeRequest:
    """One request for a preflight or a change, never for both. A retry is idempotent.

    A worker takes the credentials of a request once, so each further check needs a further request.
    """

    request_id: str
    place: Place
    sealed: str | None = field(repr=False)


def wishes(
    context: PageContext, fields: Mapping[str, str], secrets: Mapping[str, str]
) -> tuple[RootKeyChangeRequest, ...]:
    """Return several requests for the same validated root key; `fields` describe its location and `provider`.

    Several, because the credentials are not kept: a user who fixes a reported problem need not enter them again.

    Raises:
        RootKeyRefused: the first invalid field, with its rule; nothing was encrypted.
    """
    place = parse_place({name: text.strip() for name, text in fields.items() if text.strip()})
    credentials = parse_credentials({name: text for name, text in secrets.items() if text})
    refuse_incomplete(place, credentials)
    return tuple(_wish(context, uuid4().hex, place, credentials) for _ in range(_REQUESTS))


def keeps_credentials(before: Mapping[str, str], after: Mapping[str, str]) -> bool:
    """Return whether credentials that were entered for one location may be used for another.

    They may not be sent elsewhere than the user intended when entering them: a person at an unlocked screen could
    otherwise read them on another server.
    """
    provider = RootKeyMode(after["provider"])
    return all(before.get(name, "") == after.get(name, "") for name in ("provider", *_DESTINATIONS[provider]))


def moved(wishes: Sequence[RootKeyChangeRequest], fields: Mapping[str, str]) -> tuple[RootKeyChangeRequest, ...]:
    """Return the remaining requests with the same encrypted credentials for another location.

    The caller has verified `keeps_credentials`. The first request is omitted, because it may be stored already.

    Raises:
        RootKeyRefused: the first invalid field, with its rule.
    """
    place = parse_place({name: text.strip() for name, text in fields.items() if text.strip()})
    return tuple(replace(wish, place=place) for wish in wishes[1:])


def check(context: PageContext, wish: RootKeyChangeRequest) -> Sequence[Problem]:
    """Run the preflight and return its problems; empty if all checks passed. Raises OpenKcmError."""
    name = AuditName.ROOT_KEY_PREFLIGHT_REQUESTED
    _store(context, name, wish, lambda tenant: tenant.state in DECRYPTS | {State.LOCKED})
    ask(
        context,
        name,
        wish.place.name,
        lambda: context.workflows.preflight_root_key(context.tenant_id, wish.request_id),
        request=wish.request_id,
    )
    problems = _problems(context, wish)
    if problems is None:
        raise OperationTimeout  # a missing result must not count as a passed preflight
    return problems


def change(context: PageContext, wish: RootKeyChangeRequest) -> None:
    """Re-wrap every service key with another root key; it is in effect when this returns.

    Raises:
        OperationTimeout: it continues automatically; the progress is stored.
        OpenKcmError: rejected, and the former root key is in effect; `found` returns the preflight result.
    """
    name = AuditName.ROOT_KEY_CHANGE_REQUESTED
    _store(context, name, wish, lambda tenant: may_change_root_key(tenant.state, tenant.locks))
    ask(
        context,
        name,
        wish.place.name,
        lambda: context.workflows.change_root_key(context.tenant_id, wish.request_id),
        request=wish.request_id,
    )


def ask_for_platform(context: PageContext, wish: RootKeyChangeRequest, reason: str) -> Approval:
    """Request the approval to return the root key to the platform; return the request. Raises OpenKcmError."""
    name, reason = AuditName.ROOT_KEY_CHANGE_REQUESTED, parse_reason(reason)
    _store(context, name, wish, lambda tenant: may_change_root_key(tenant.state, tenant.locks))
    return approval_actions.ask_for(context, Action.ROOT_KEY_TO_PLATFORM, {"request_id": wish.request_id}, reason)


def found(context: PageContext, wish: RootKeyChangeRequest) -> Sequence[Problem]:
    """Return the problems that the preflight of a request found; empty if it did not complete."""
    return _problems(context, wish) or []


def _problems(context: PageContext, wish: RootKeyChangeRequest) -> Sequence[Problem] | None:
    with context.database.tenant_tx(context.tenant_id) as tx:
        return tx.root_keys.problems(wish.request_id)


def _wish(context: PageContext, request_id: str, place: Place, credentials: Credentials) -> RootKeyChangeRequest:
    if isinstance(place, PlatformKeyRef):
        return RootKeyChangeRequest(request_id, place, None)
    return RootKeyChangeRequest(
        request_id, place, encrypt_credentials(context.intake_key, context.tenant_id, request_id, credentials)
    )


def _store(
    context: PageContext, name: AuditName, wish: RootKeyChangeRequest, admitted: Callable[[TenantRow], bool]
) -> None:
    """Store the request and record the intended action."""
    require(context, Permission.MANAGE_KEYS, name, wish.place.name)
    with context.database.tenant_tx(context.tenant_id) as tx:
        tenant = tx.tenants.get()
        if tenant is None:
            raise TenantUnknown
        if not admitted(tenant):
            raise TenantNotOperational(tenant.state)
        tx.root_keys.request(RootKeyRequestRow(wish.request_id, wish.place, wish.sealed))
        tx.audit.append(
            context.event(name, wish.place.name, "intended", provider=wish.place.provider, request=wish.request_id)
        )
