"""The tenant's certificate authorities and their CRLs, and items that expire.

The first authority recorded for a version of the tenant's key is kept: a later signature must not replace it.
"""

import hashlib
import ssl
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from core.certificates import AuthorityState, ExpiringItem
from core.errors.platform import DatabaseRefused
from core.names import ca_key
from database.repository import Repository

_AUTHORITY = "select serial, certificate_pem, chain_pem, not_after, key_version, state from okcm.certificate_authority"


class RevokedRow(NamedTuple):
    serial: str
    revoked_at: datetime


class RevocationListRow(NamedTuple):
    """The newest CRL of the authority with this serial, in DER."""

    authority: str
    number: int
    der: bytes
    this_update: datetime
    next_update: datetime


class AuthorityRow(NamedTuple):
    """A certificate authority of the tenant. `serial` is lower-case hex without separators; the PEMs are public."""

    serial: str
    certificate_pem: str
    chain_pem: str
    not_after: datetime
    key_version: int = 1
    """Version of the tenant's Transit key; only this version signs for this authority."""
    state: AuthorityState = AuthorityState.CURRENT

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the certificate in hex, which identifies the issuer of a presented chain."""
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(self.certificate_pem)).hexdigest()


class Certificates(Repository):
    def record_authority(self, authority: AuthorityRow) -> AuthorityRow:
        """Record an authority and return the recorded one for its key version, which is the first."""
        self.connection.execute(
            "insert into okcm.certificate_authority"
            " (tenant_id, serial, certificate_pem, chain_pem, not_after, key_version, state)"
            " values (%s, %s, %s, %s, %s, %s, %s) on conflict do nothing",
            [
                self.tenant_id,
                authority.serial,
                authority.certificate_pem,
                authority.chain_pem,
                authority.not_after,
                authority.key_version,
                authority.state,
            ],
        )
        kept = self._one("key_version = %s", authority.key_version)
        if kept is None:
            raise DatabaseRefused
        return kept

    def authority(self) -> AuthorityRow | None:
        """Return the current authority, which issues certificates."""
        return self._one("state = %s", AuthorityState.CURRENT)

    def issuer(self, serial: str) -> AuthorityRow | None:
        """Return an authority in any state by its serial."""
        return self._one("serial = %s", serial)

    def authorities(self) -> Sequence[AuthorityRow]:
        """Return the authorities in all states, newest first."""
        rows = self.connection.execute(f"{_AUTHORITY} order by key_version desc")
        return [_authority(row) for row in rows]

    def activate(self, serial: str) -> None:
        """Make a prepared authority the current one; the current one becomes the former."""
        # A unique index allows one authority in each of these states, so the old one must change first.
        self._enter(AuthorityState.FORMER, "state = %s", AuthorityState.CURRENT)
        if not self._enter(AuthorityState.CURRENT, "state = 'prepared' and serial = %s", serial):
            raise DatabaseRefused
        self.connection.execute(
            "update okcm.key k set version = a.key_version, rotated_at = clock_timestamp()"
            " from okcm.certificate_authority a where a.serial = %s and k.name = %s",
            [serial, ca_key(self.tenant_id)],
        )

    def end(self, serial: str) -> bool:
        """End a prepared or former authority permanently; return False if it was neither."""
        return self._enter(AuthorityState.ENDED, "state in ('prepared', 'former') and serial = %s", serial)

    def issued_until(self, serial: str) -> datetime | None:
        """Return when the last certificate of an authority expires, including revoked ones; None without any."""
        found = self.connection.execute(
            "select max(not_after) from okcm.service_certificate where authority = %s", [serial]
        ).fetchone()
        return None if found is None else found[0]

    def unrenewed(self, limit: int) -> Sequence[str]:
        """Return connected services without a certificate of the current authority."""
        rows = self.connection.execute(
            "select s.service from okcm.service s where s.state = 'connected' and not exists ("
            " select from okcm.service_certificate c join okcm.certificate_authority a on a.serial = c.authority"
            " where c.service = s.service and c.revoked_at is null and a.state = 'current')"
            " order by s.service limit %s",
            [limit],
        )
        return [service for (service,) in rows]

    def revoked(self, serial: str) -> tuple[Sequence[RevokedRow], datetime]:
        """Return an authority's revoked certificates that are not expired, and the time of this query.

        If the caller holds the lock of the tenant's row (`Tenants.lock`), no later revocation has an earlier time.
        """
        rows = self.connection.execute(
            "select serial, revoked_at from okcm.service_certificate"
            " where authority = %s and revoked_at is not null and not_after > clock_timestamp() order by revoked_at",
            [serial],
        ).fetchall()
        now = self.connection.execute("select clock_timestamp()").fetchone()
        if now is None:
            raise DatabaseRefused
        return [RevokedRow(*row) for row in rows], now[0]

    def revocation_lists(self) -> Sequence[RevocationListRow]:
        """Return the newest CRL of each authority, newest first."""
        rows = self.connection.execute(
            "select authority, number, der, this_update, next_update from okcm.certificate_revocation_list"
            " order by number desc"
        )
        return [RevocationListRow(*row) for row in rows]

    def publish(self, listed: RevocationListRow) -> bool:
        """Replace an authority's CRL; return False unless the number exceeds those of all CRLs of the tenant."""
        # A CRL gets its number before it is signed: of two concurrent CRLs, the second finds its number in use.
        published = self.connection.execute(
            "insert into okcm.certificate_revocation_list as kept"
            " (tenant_id, authority, number, der, this_update, next_update)"
            " select %(tenant)s, %(authority)s, %(number)s, %(der)s, %(this)s, %(next)s"
            " where %(number)s > (select coalesce(max(number), 0) from okcm.certificate_revocation_list)"
            " on conflict (tenant_id, authority) do update set number = excluded.number, der = excluded.der,"
            " this_update = excluded.this_update, next_update = excluded.next_update"
            " where kept.number < excluded.number",
            {
                "tenant": self.tenant_id,
                "authority": listed.authority,
                "number": listed.number,
                "der": listed.der,
                "this": listed.this_update,
                "next": listed.next_update,
            },
        )
        return published.rowcount == 1

    def _one(self, condition: str, value: object) -> AuthorityRow | None:
        found = self.connection.execute(f"{_AUTHORITY} where {condition}", [value]).fetchone()
        return None if found is None else _authority(found)

    def _enter(self, state: AuthorityState, condition: str, value: object) -> bool:
        statement = f"update okcm.certificate_authority set state = %s where {condition}"  # noqa: S608 - constants
        return self.connection.execute(statement, [state, value]).rowcount == 1


def _authority(row: tuple[Any, ...]) -> AuthorityRow:
    read = AuthorityRow(*row)
    return read._replace(state=AuthorityState(read.state))


class ExpiringRow(NamedTuple):
    """An item that was not renewed in time. `serial` distinguishes it from its predecessor and its successor."""

    tenant_id: str
    region: str
    kind: ExpiringItem
    name: str
    serial: str
    generation: int
    begins: datetime
    ends: datetime
