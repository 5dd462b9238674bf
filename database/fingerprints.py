"""Fingerprints of keys, written through a function that tells nothing of anybody else's, and probes of the trial."""

from dataclasses import dataclass

from psycopg import Connection
from psycopg.rows import TupleRow

from database.fingerprint_rows import Fingerprinted, KeyProbeRow


@dataclass(frozen=True, slots=True)
class Fingerprints:
    """Fingerprints and probes of one tenant's keys (worker). Nobody reads a fingerprint, not even its own."""

    connection: Connection[TupleRow]
    tenant_id: str

    def record(self, key: str, version: int, fingerprint: str) -> Fingerprinted:
        """Put the fingerprint of a version of a key on record, once and for good (SHA-256, hex)."""
        row = self.connection.execute(
            "select okcm.record_fingerprint(%s, %s, %s)", [key, version, fingerprint]
        ).fetchone()
        return Fingerprinted(row[0] if row else "")

    def probe(self) -> KeyProbeRow | None:
        """Return what the tenant left for others."""
        row = self.connection.execute("select l2_key, version, ciphertext, tried from okcm.key_probe").fetchone()
        return None if row is None else KeyProbeRow(*row)

    def leave(self, probe: KeyProbeRow) -> None:
        """Replace it."""
        self.connection.execute(
            "insert into okcm.key_probe (tenant_id, l2_key, version, ciphertext, tried) values (%s, %s, %s, %s, %s)"
            " on conflict (tenant_id) do update set l2_key = excluded.l2_key, version = excluded.version,"
            " ciphertext = excluded.ciphertext, tried = excluded.tried, left_at = excluded.left_at",
            [self.tenant_id, probe.l2_key, probe.version, probe.ciphertext, probe.tried],
        )
