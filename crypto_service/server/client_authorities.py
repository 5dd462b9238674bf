"""The certificates of the tenants' CAs, with which TLS completes the chain of a client that sends only its leaf.

OpenSSL finds an issuer in a folder by the hash of its name, and reads its file when the first client of that issuer
connects. All CAs in memory would cost every process seconds at its start, because OpenSSL sorts its store before each
addition.

A CA in the folder authorizes no client. Its chain must end in the PKI root like that of a CA that a client sends, and
`crypto_service.authentication` decides which issuer and which certificate is accepted.
"""

import asyncio
import fcntl
import hashlib
import shutil
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from crypto_service.interfaces import BlockingExecutor, Invalidations
from database.platform.scheduled import ClientAuthorityRow, PlatformQueries
from database.postgres.access import PLATFORM
from database.postgres.change_feed import AUTHORITIES
from openkcm.errors import OpenKcmError

_PAGE = 500
_PAUSE_SECONDS = 0.5
_START = ("0", "")
_LOCK = ".lock"

log = structlog.get_logger()


def authorities_folder(journal: Path) -> Path:
    """Create the folder, in that of the write-ahead log, and return it."""
    folder = journal / "authorities"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def discard_authorities(journal: Path) -> None:
    """Remove what an earlier run wrote; MUST run before the processes that share the folder start."""
    shutil.rmtree(authorities_folder(journal))


class ClientAuthorities:
    """Keeps `folder` complete. Several processes share it: each writes all certificates, whichever is first."""

    def __init__(
        self, platform: PlatformQueries, blocking: BlockingExecutor, changes: Invalidations, folder: Path
    ) -> None:
        self.folder = folder
        self._platform = platform
        self._blocking = blocking
        self._position = _START
        self._lost = True
        self._changed = asyncio.Event()
        self._loaded = asyncio.Event()
        changes.subscribe(self._wake)

    async def run(self) -> None:
        """Write all certificates once changes are notified, and then each new one; never returns."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                await self._read()
            except (OpenKcmError, OSError) as failed:
                log.warning("client authorities not read", error=str(failed))
            except Exception:  # without this task the clients of new authorities would need a chain
                log.exception("client authorities not read")
            else:
                self._loaded.set()
                continue
            self._changed.set()
            await asyncio.sleep(_PAUSE_SECONDS)

    async def loaded(self) -> None:
        """Return when the certificates of all authorities are in the folder."""
        await self._loaded.wait()

    def _wake(self, tenant: str | None) -> None:
        if tenant is None:
            self._lost = True
        if tenant is None or tenant == AUTHORITIES:
            self._changed.set()

    async def _read(self) -> None:
        """Write the certificates after the position; raise OpenKcmError, OSError."""
        if self._lost:  # a failover can lose transactions and use their numbers again
            self._lost, self._position = False, _START
        after, until = self._position, None
        while True:
            rows = await self._blocking.run(PLATFORM, partial(self._copy_page, after))
            if rows:
                until = until or rows[0].until
                after = (rows[-1].xid, rows[-1].serial)
            if len(rows) < _PAGE:
                break
        if until is not None:
            self._position = (until, "")

    def _copy_page(self, after: tuple[str, str]) -> Sequence[ClientAuthorityRow]:
        rows = self._platform.client_authorities(after, _PAGE)
        with (self.folder / _LOCK).open("w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for row in rows:
                try:
                    certificate = x509.load_pem_x509_certificate(row.certificate_pem.encode())
                except ValueError:  # one row must not exclude the clients of all others
                    log.warning("client authority not readable", serial=row.serial)
                else:
                    self._write(certificate, row.serial)
        return rows

    def _write(self, certificate: x509.Certificate, serial: str) -> None:
        # OpenSSL would accept a self-issued certificate as a root: only a process's own context contains the root.
        if certificate.issuer == certificate.subject:
            log.warning("client authority is self-issued", serial=serial)
            return
        file = self.folder / f"{name_hash(certificate.subject)}.0"
        pem = certificate.public_bytes(serialization.Encoding.PEM)
        others = b""
        with suppress(FileNotFoundError):
            others = file.read_bytes()
        if pem not in others:  # the hash has 32 bits: some names share a file
            draft = self.folder / ".draft"
            draft.write_bytes(others + pem)
            draft.replace(file)


def name_hash(name: x509.Name) -> str:
    """Return the hash by which OpenSSL looks for a certificate of `name` in a folder (X509_NAME_hash).

    It covers the canonical form: attributes as UTF-8 in lower case, without the tag and length of the whole name. The
    name of a CA consists of a common name, so its length is one byte.
    """
    canonical = x509.Name(
        x509.RelativeDistinguishedName(
            x509.NameAttribute(one.oid, " ".join(str(one.value).lower().split())) for one in part
        )
        for part in name.rdns
    ).public_bytes()
    digest = hashlib.sha1(canonical[2:], usedforsecurity=False).digest()
    return f"{int.from_bytes(digest[:4], 'little'):08x}"
