"""Who may be where: asked for each document, each download, each socket, and again at every rerun of a page.

Four things must hold at once: the claims are whole and not expired, the server's own row says that this sign-on has not
ended and is not idle, the place is the person's, and the query does not speak of another one. What fails any of them
gets nothing but the refusal, and the refusal is on record: in the stream of whoever tried, and in the stream of the
tenant that was tried, there without saying whose person it was.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from core.errors.platform import DatabaseUnavailable
from core.errors.tenants import AccessDenied, SessionEnded
from core.tenants.lifecycle import State
from core.tenants.roles import OPERATORS
from dashboard.auth.claims import FRESH, ClaimNames, Session, read
from dashboard.auth.routes import Route, RouteKind
from database.connection.database import Database
from openkcm.contract.audit_events import AuditEvent, AuditName, Outcome
from openkcm.errors import OpenKcmError

_SEEN_EVERY = timedelta(seconds=30)
_TENANT_PARAMETER = "tenant"
STRANGER = "somebody of another organization"
NOBODY = "nobody signed in"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class SessionAuthorizer:
    database: Database
    names: ClaimNames
    idle: timedelta
    now: Callable[[], datetime]

    def admit(self, claims: Mapping[str, object], place: Route, query: Mapping[str, str], source: str) -> Session:
        """Return the sign-on of somebody who may be at `place`; counts as a use of the session.

        Raises:
            AccessDenied, SessionEnded: they may not; on record when this is raised.
            DatabaseUnavailable: it cannot be told, so they may not either.
        """
        sign_on = None
        try:
            sign_on = read(claims, self.names, self.now())
            self._same_place(sign_on, place, query)
            self._in_session(sign_on, source)
        except (AccessDenied, SessionEnded) as refused:
            self._record_refusal(refused, sign_on, place, source)
            raise
        return sign_on

    def refuse_forged(self, place: Route, source: str) -> SessionEnded:
        """Record that a cookie was presented which this server never signed, and return the refusal."""
        refused = SessionEnded("this is not a sign-on of this server")
        self._record_refusal(refused, None, place, source)
        return refused

    def holds(self, sign_on: Session, source: str) -> bool:
        """Return whether a sign-on still holds, and count that as a use of it: for what reruns without `admit`.

        Raises:
            DatabaseUnavailable: it cannot be told, so nothing may be shown.
        """
        if self.now() >= sign_on.expires_at:
            return False
        try:
            self._in_session(sign_on, source)
        except SessionEnded:
            return False
        return True

    def has_ended(self, sign_on: Session) -> bool:
        """Return whether a session is over, without using it: what an open tab asks again and again."""
        if self.now() >= sign_on.expires_at:
            return True
        try:
            with self.database.tenant_tx(sign_on.person.tenant_id) as tx:
                row = tx.sessions.get(sign_on.session_id)
        except DatabaseUnavailable:
            return False  # nothing is shown anew meanwhile: every rerun asks `admit`, or `holds` if it is of a part
        return row is None or row.ended_at is not None or self.now() - row.last_seen_at > self.idle

    def has_left(self, sign_on: Session) -> bool:
        """Return whether the tenant of somebody who was admitted is destroyed, so that only what proves it is left.

        Their sign-ons were erased with it. Who signs on again may still look: the proof is the customer's.
        """
        if sign_on.person.is_operator:
            return False
        with self.database.tenant_tx(sign_on.person.tenant_id) as tx:
            tenant = tx.tenants.get()
        return tenant is not None and tenant.state is State.OFFBOARDED

    def end(self, sign_on: Session, source: str) -> None:
        """End a session for all its tabs; ending it again changes nothing."""
        with self.database.tenant_tx(sign_on.person.tenant_id) as tx:
            if tx.sessions.end(sign_on.session_id):
                tx.audit.append(self._event(sign_on, AuditName.SIGNED_OUT, "success", source))

    def _same_place(self, sign_on: Session, place: Route, query: Mapping[str, str]) -> None:
        theirs = {
            RouteKind.TENANT: place.tenant_id == sign_on.person.tenant_id,
            RouteKind.OPERATIONS: sign_on.person.is_operator,
        }
        if not theirs.get(place.kind, False):
            raise AccessDenied
        # No page reads a tenant from the query; who writes one there tries whether some page does.
        if query.get(_TENANT_PARAMETER, place.tenant_id) != place.tenant_id:
            raise AccessDenied

    def _in_session(self, sign_on: Session, source: str) -> None:
        now = self.now()
        with self.database.tenant_tx(sign_on.person.tenant_id) as tx:
            row = tx.sessions.get(sign_on.session_id)
            if row is None:
                # A cookie outlives its session's row only if somebody kept it: a sign-on begins when it is made.
                if now - sign_on.issued_at > FRESH:
                    raise SessionEnded
                if tx.sessions.begin(sign_on.session_id, sign_on.person.subject, sign_on.expires_at):
                    roles = ",".join(sorted(sign_on.person.roles))
                    tx.audit.append(self._event(sign_on, AuditName.SIGNED_IN, "success", source, roles=roles))
            elif row.ended_at is not None or now - row.last_seen_at > self.idle:
                raise SessionEnded
            elif now - row.last_seen_at > _SEEN_EVERY:
                tx.sessions.seen(sign_on.session_id, now)

    def _record_refusal(self, refused: OpenKcmError, sign_on: Session | None, place: Route, source: str) -> None:
        """Record a refusal once a minute for each who, where and why, so that no reload fills a stream.

        The reason belongs to it: a forged cookie must not hide behind an expired one from the same address.
        """
        who = NOBODY if sign_on is None else sign_on.person.subject
        own = OPERATORS if sign_on is None else sign_on.person.tenant_id
        log.warning("access refused", code=refused.code, place=place.root, tenant_id=own, source=source)
        minute = int(self.now().timestamp()) // 60
        by = sign_on.session_id[:16] if sign_on else source
        key = f"dashboard/refused/{by}/{refused.code}{place.root}/{minute}/{refused.message}"
        streams = {own: who}
        if place.tenant_id and place.tenant_id != own and self._exists(place.tenant_id):
            streams[place.tenant_id] = NOBODY if sign_on is None else STRANGER
        for tenant_id, actor in streams.items():
            with self.database.tenant_tx(tenant_id) as tx:
                tx.audit.append(
                    AuditEvent(
                        event_id=key,
                        name=AuditName.ACCESS_REFUSED,
                        actor_kind="human",
                        actor=actor,
                        subject=place.root,
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
