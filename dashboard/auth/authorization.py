"""Authorizes each document, download and socket, and every rerun of a page.

Four conditions must hold: the claims are complete and not expired; the stored session has not ended and is not idle;
the route belongs to the user; the query names no other tenant. Otherwise the request gets only the refusal. The refusal
is recorded in the stream of the user's tenant and in the stream of the requested tenant, there without the name of the
other tenant.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from core.errors.tenants import AccessDenied, SessionEnded
from core.tenants.roles import OPERATORS
from dashboard.auth.claims import FRESH, ClaimNames, Session, read
from dashboard.auth.routes import TENANT_PARAMETER, Route, RouteKind
from database.connection.database import Database
from database.tenants import TenantRow
from openkcm.contract.audit_events import AuditEvent, AuditName, Outcome
from openkcm.errors import OpenKcmError

_SEEN_EVERY = timedelta(seconds=30)
OTHER_TENANTS_USER = "user of another organization"
NOT_SIGNED_IN = "not signed in"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class SessionAuthorizer:
    database: Database
    names: ClaimNames
    idle: timedelta
    now: Callable[[], datetime]
    require_database: Callable[[], None] = lambda: None
    """Raises DatabaseUnavailable without a call while the database is known to be unavailable, so that no page waits
    for it.
    """

    def admit(self, claims: Mapping[str, object], route: Route, query: Mapping[str, str], source: str) -> Session:
        """Return the session of a user who is authorized for `route`; counts as activity.

        Raises:
            AccessDenied, SessionEnded: not authorized; recorded before this is raised.
            DatabaseUnavailable: the session cannot be verified, so access is denied as well.
        """
        sign_on = None
        self.require_database()
        try:
            sign_on = read(claims, self.names, self.now())
            self._require_own_route(sign_on, route, query)
            self._require_session(sign_on, source)
        except (AccessDenied, SessionEnded) as refused:
            self._record_refusal(refused, sign_on, route, source)
            raise
        return sign_on

    def refuse_forged(self, route: Route, source: str) -> SessionEnded:
        """Record a cookie without a valid signature and return the refusal."""
        refused = SessionEnded("the sign-on cookie was not issued by this server")
        self._record_refusal(refused, None, route, source)
        return refused

    def holds(self, sign_on: Session, source: str) -> bool:
        """Return whether a session is still valid, and count it as activity: for reruns without `admit`.

        Raises:
            DatabaseUnavailable: the session cannot be verified, so nothing may be shown.
        """
        if self.now() >= sign_on.expires_at:
            return False
        self.require_database()
        try:
            self._require_session(sign_on, source)
        except SessionEnded:
            return False
        return True

    def ends_at(self, sign_on: Session) -> datetime | None:
        """Return when a session ends without activity, None if it is over; does not count as activity.

        Raises:
            DatabaseUnavailable: unknown.
        """
        if self.now() >= sign_on.expires_at:
            return None
        self.require_database()
        with self.database.tenant_tx(sign_on.person.tenant_id) as tx:
            row = tx.sessions.get(sign_on.session_id)
        if row is None or row.ended_at is not None or self.now() - row.last_seen_at > self.idle:
            return None
        return min(row.last_seen_at + self.idle, sign_on.expires_at)

    def has_ended(self, sign_on: Session) -> bool:
        """Return whether a session is over, as `ends_at` does: open tabs poll this."""
        return self.ends_at(sign_on) is None

    def tenant(self, sign_on: Session) -> TenantRow | None:
        """Return the tenant of an authorized user; None for an operator, and before it is enabled.

        Of an offboarded tenant only the erasure certificate is shown. Its sessions were erased, and users may sign in
        again: the certificate belongs to the customer.
        """
        if sign_on.person.is_operator:
            return None
        with self.database.tenant_tx(sign_on.person.tenant_id) as tx:
            return tx.tenants.get()

    def leave(self, claims: Mapping[str, object], source: str) -> None:
        """End the session of a user who signs out; a failure is logged, because the browser must be signed out."""
        try:
            self.require_database()
            self.end(read(claims, self.names, self.now()), source)
        except SessionEnded:
            return
        except OpenKcmError as failed:
            log.warning("the session of a user who signed out was not ended", code=failed.code)

    def end(self, sign_on: Session, source: str) -> None:
        """End a session in all tabs; idempotent."""
        with self.database.tenant_tx(sign_on.person.tenant_id) as tx:
            # Also one that no page has stored yet: a copy of its cookie would begin it within `FRESH`.
            tx.sessions.begin(sign_on.session_id, sign_on.person.subject, sign_on.expires_at)
            if tx.sessions.end(sign_on.session_id):
                tx.audit.append(self._event(sign_on, AuditName.SIGNED_OUT, "success", source))

    def _require_own_route(self, sign_on: Session, route: Route, query: Mapping[str, str]) -> None:
        theirs = {
            RouteKind.TENANT: route.tenant_id == sign_on.person.tenant_id,
            RouteKind.OPERATIONS: sign_on.person.is_operator,
        }
        if not theirs.get(route.kind, False):
            raise AccessDenied
        if query.get(TENANT_PARAMETER, route.tenant_id) != route.tenant_id:
            raise AccessDenied

    def _require_session(self, sign_on: Session, source: str) -> None:
        now = self.now()
        with self.database.tenant_tx(sign_on.person.tenant_id) as tx:
            row = tx.sessions.get(sign_on.session_id)
            if row is None:
                # A session is stored at the sign-on; an older cookie without a stored session was copied and kept.
                if now - sign_on.issued_at > FRESH:
                    raise SessionEnded
                if tx.sessions.begin(sign_on.session_id, sign_on.person.subject, sign_on.expires_at):
                    roles = ",".join(sorted(sign_on.person.roles))
                    tx.audit.append(self._event(sign_on, AuditName.SIGNED_IN, "success", source, roles=roles))
            elif row.ended_at is not None or now - row.last_seen_at > self.idle:
                raise SessionEnded
            elif now - row.last_seen_at > _SEEN_EVERY:
                tx.sessions.seen(sign_on.session_id, now)

    def _record_refusal(self, refused: OpenKcmError, sign_on: Session | None, route: Route, source: str) -> None:
        """Record a refusal once a minute for each user, route and reason, so that reloads do not fill a stream.

        The reason is part of the key: a forged cookie must not hide behind an expired one from the same address.
        """
        who = NOT_SIGNED_IN if sign_on is None else sign_on.person.subject
        own = OPERATORS if sign_on is None else sign_on.person.tenant_id
        log.warning("access refused", code=refused.code, place=route.root, tenant_id=own, source=source)
        minute = int(self.now().timestamp()) // 60
        by = sign_on.session_id[:16] if sign_on else source
        key = f"dashboard/refused/{by}/{refused.code}{route.root}/{minute}/{refused.message}"
        streams = {own: who}
        if route.tenant_id and route.tenant_id != own and self._exists(route.tenant_id):
            streams[route.tenant_id] = NOT_SIGNED_IN if sign_on is None else OTHER_TENANTS_USER
        for tenant_id, actor in streams.items():
            with self.database.tenant_tx(tenant_id) as tx:
                tx.audit.append(
                    AuditEvent(
                        event_id=key,
                        name=AuditName.ACCESS_REFUSED,
                        actor_kind="human",
                        actor=actor,
                        subject=route.root,
                        outcome="refused",
                        correlation_id=key,
                        source=source,
                        details={"code": refused.code, "reason": refused.message},
                    )
                )

    def _exists(self, tenant_id: str) -> bool:
        with self.database.tenant_tx(tenant_id) as tx:
            return tx.tenants.get() is not None

    def _event(self, sign_on: Session, name: AuditName, outcome: Outcome, source: str, **details: str) -> AuditEvent:
        return AuditEvent(
            event_id=f"{name}/{sign_on.session_id}",
            name=name,
            actor_kind="human",
            actor=sign_on.person.subject,
            subject="dashboard",
            outcome=outcome,
            correlation_id=f"session/{sign_on.session_id[:16]}",
            source=source,
            details=details,
        )
