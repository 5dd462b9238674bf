"""What somebody does to the root key on the dashboard: try one, or change to it.

Credentials are in this process only until they are sealed, which is before anything is stored or asked; what is kept
after that opens for the worker alone, and only for this tenant and this request.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import uuid4

from pydantic import SecretStr

from config.credential_encryption import encrypt_credentials
from core.errors.tenants import TenantNotOperational, TenantUnknown
from core.keys.root_keys import Credentials, Place, PlatformKeyRef, Problem, parse_place, refuse_incomplete
from core.tenants.approvals import Action, Approval
from core.tenants.lifecycle import DECRYPTS, State
from core.tenants.locks import may_change_root_key
from core.tenants.roles import Permission
from dashboard.approvals import actions as approval_actions
from dashboard.page_context import PageContext, ask, require
from database.root_keys import RootKeyRequestRow
from database.tenants import TenantRow
from openkcm.contract.audit_events import AuditName
from workflows.client.workflow_client import OperationTimeout

_REQUESTS = 8


@dataclass(frozen=True, slots=True)
class RootKeyChangeRequest:
    """One request that can be made: for a check or a change, never for both. Asking it again does no harm.

    A worker takes the credentials of a request once, so that a further check needs a further wish.
    """

    request_id: str
    place: Place
    sealed: str | None = field(repr=False)


def wishes(
    seat: PageContext, fields: Mapping[str, str], secrets: Mapping[str, str]
) -> tuple[RootKeyChangeRequest, ...]:
    """Return several wishes for the same checked root key; `fields` are those of its place, `provider` among them.

    Several, because the credentials are not kept: whoever mends what a check found need not give them again.

    Raises:
        RootKeyRefused: the first field that is wrong, with its rule; nothing was sealed.
    """
    place = parse_place({name: text.strip() for name, text in fields.items() if text.strip()})
    credentials = Credentials.model_validate({name: SecretStr(text) for name, text in secrets.items() if text})
    refuse_incomplete(place, credentials)
    return tuple(_wish(seat, uuid4().hex, place, credentials) for _ in range(_REQUESTS))


def check(seat: PageContext, wish: RootKeyChangeRequest) -> Sequence[Problem]:
    """Try a root key, change nothing, and return what is wrong; empty when all works. Raises OpenKcmError."""
    name = AuditName.ROOT_KEY_PREFLIGHT_REQUESTED
    _store(seat, name, wish, lambda tenant: tenant.state in DECRYPTS | {State.LOCKED})
    ask(
        seat,
        name,
        wish.place.name,
        lambda: seat.door.preflight_root_key(seat.tenant_id, wish.request_id),
        request=wish.request_id,
    )
    problems = _problems(seat, wish)
    if problems is None:
        raise OperationTimeout  # never taken for a key that works
    return problems


def change(seat: PageContext, wish: RootKeyChangeRequest) -> None:
    """Put every service key under another root key; it is in force when this returns.

    Raises:
        OperationTimeout: it goes on by itself; the progress is on record.
        OpenKcmError: refused, and the former root key is in force; `found` tells what the preflight said.
    """
    name = AuditName.ROOT_KEY_CHANGE_REQUESTED
    _store(seat, name, wish, lambda tenant: may_change_root_key(tenant.state, tenant.locks))
    ask(
        seat,
        name,
        wish.place.name,
        lambda: seat.door.change_root_key(seat.tenant_id, wish.request_id),
        request=wish.request_id,
    )


def ask_for_platform(seat: PageContext, wish: RootKeyChangeRequest) -> Approval:
    """Ask a second person to have the root key given back to the platform; return the request. Raises OpenKcmError."""
    name = AuditName.ROOT_KEY_CHANGE_REQUESTED
    _store(seat, name, wish, lambda tenant: may_change_root_key(tenant.state, tenant.locks))
    return approval_actions.ask_for(seat, Action.ROOT_KEY_TO_PLATFORM, {"request_id": wish.request_id})


def found(seat: PageContext, wish: RootKeyChangeRequest) -> Sequence[Problem]:
    """Return what the preflight of a request that was made found; empty where it did not end."""
    return _problems(seat, wish) or []


def _problems(seat: PageContext, wish: RootKeyChangeRequest) -> Sequence[Problem] | None:
    with seat.database.tenant_tx(seat.tenant_id) as tx:
        return tx.root_keys.problems(wish.request_id)


def _wish(seat: PageContext, request_id: str, place: Place, credentials: Credentials) -> RootKeyChangeRequest:
    if isinstance(place, PlatformKeyRef):
        return RootKeyChangeRequest(request_id, place, None)
    return RootKeyChangeRequest(
        request_id, place, encrypt_credentials(seat.intake_key, seat.tenant_id, request_id, credentials)
    )


def _store(
    seat: PageContext, name: AuditName, wish: RootKeyChangeRequest, admitted: Callable[[TenantRow], bool]
) -> None:
    """Store the request and put on record that it is about to be made."""
    require(seat, Permission.MANAGE_KEYS, name, wish.place.name)
    with seat.database.tenant_tx(seat.tenant_id) as tx:
        tenant = tx.tenants.get()
        if tenant is None:
            raise TenantUnknown
        if not admitted(tenant):
            raise TenantNotOperational(tenant.state)
        tx.root_keys.request(RootKeyRequestRow(wish.request_id, wish.place, wish.sealed))
        tx.audit.append(
            seat.event(name, wish.place.name, "intended", provider=wish.place.provider, request=wish.request_id)
        )
