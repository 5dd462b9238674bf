"""The service's certificate and key files, written by `openkcmctl service connect --out`, and their renewal.

A renewed certificate is for the same key, which never leaves this machine. It is written atomically with mode 0600 and
loaded into the TLS context in use: new connections present it, and open connections continue. In a folder with
MongoDB's file of certificate and key, that file is written too.
"""

import os
import ssl
import threading
import tomllib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from openkcm.contract.client_files import AUTHORITY, CERTIFICATE, CONFIGURATION, KEY, MONGODB_PEM
from openkcm.credentials.files import open_folder, write_whole
from openkcm.sdk.errors import CertificateUnusable

_FILES = {"certificate": CERTIFICATE, "key": KEY, "ca": AUTHORITY}
_RENEWED_AFTER = 2 / 3
_CHECKS = 60
"""How often the client checks for a renewed certificate in the last third of the present one's lifetime."""


def _now() -> datetime:
    return datetime.now(UTC)


class Identity:
    """Paths of `certificate` (leaf and chain), `key` and `ca`, all PEM; safe to use from several threads."""

    def __init__(self, certificate: Path, key: Path, ca: Path, now: Callable[[], datetime] = _now) -> None:
        """Read the files. Raises CertificateUnusable."""
        self._certificate, self._key, self._now = certificate, key, now
        self._lock = threading.Lock()
        self._next_check = datetime.min.replace(tzinfo=UTC)
        try:
            self.context = ssl.create_default_context(cafile=str(ca))
            self.context.minimum_version = ssl.TLSVersion.TLSv1_2
            self._load()
        except (OSError, ValueError) as failed:
            raise _unusable("the certificate, key or CA file cannot be used") from failed

    @classmethod
    def from_folder(cls, folder: Path, now: Callable[[], datetime] = _now) -> "Identity":
        """Return the identity that `client.toml` in `folder` names; raises CertificateUnusable."""
        named = read_configuration(folder)
        certificate, key, ca = (_file(folder, named.get(kind, default)) for kind, default in _FILES.items())
        return cls(certificate, key, ca, now)

    @property
    def not_after(self) -> datetime:
        """The expiry of the certificate in use."""
        return self._leaf.not_valid_after_utc

    def claim_renewal(self) -> bool:
        """Return whether to check for a renewed certificate now; only one of several concurrent callers gets True."""
        if self._now() < self._next_check:  # read without the lock: an extra or skipped check does no harm
            return False
        with self._lock:
            if self._now() < self._next_check:
                return False
            lifetime = self._leaf.not_valid_after_utc - self._leaf.not_valid_before_utc
            self._next_check = self._now() + lifetime * (1 - _RENEWED_AFTER) / _CHECKS
            return True

    def reload(self) -> bool:
        """Load the files again if another process has renewed the certificate; raises CertificateUnusable."""
        with self._lock:
            try:
                on_disk = x509.load_pem_x509_certificate(self._certificate.read_bytes())
                if on_disk == self._leaf:
                    return False
                self._load()
            except (OSError, ValueError) as failed:
                raise _unusable("the renewed files on disk cannot be used") from failed
            return True

    def install(self, answer: Mapping[str, Any]) -> bool:
        """Install the certificate of the service's response; False if it is the one in use.

        Raises:
            CertificateUnusable: it is for another key, which only `openkcmctl service connect` can provide; or it
                cannot be read or written. Nothing was replaced.
        """
        with self._lock:
            try:
                leaf = x509.load_pem_x509_certificate(str(answer["certificate"]).encode())
                chain = x509.load_pem_x509_certificates(str(answer["chain"]).encode())
                same_key = _spki(leaf) == _spki(self._leaf)
            except (KeyError, ValueError) as failed:
                raise _unusable("the certificate in the response cannot be read") from failed
            if leaf == self._leaf:
                return False
            if not same_key:
                raise _unusable("the service's newest certificate is for another key")
            # The server has the root itself; sending it would only enlarge handshakes.
            wanted = dict.fromkeys([leaf, *(one for one in chain if one.subject != one.issuer)])
            try:
                self._write(b"".join(map(_pem, wanted)))
                self._load()
            except (OSError, ValueError) as failed:
                raise _unusable("the renewed certificate cannot be written or used") from failed
            return True

    def _write(self, presented: bytes) -> None:
        """Write every file that contains the certificate; it is written last, so an interrupted renewal is repeated."""
        pair = self._certificate.with_name(MONGODB_PEM)
        if pair.exists():
            _write(pair, presented + self._key.read_bytes())
        _write(self._certificate, presented)

    def _load(self) -> None:
        # Read before the context is loaded: another process may write a certificate in between, and the next reload
        # then finds it.
        leaf = x509.load_pem_x509_certificate(self._certificate.read_bytes())
        self.context.load_cert_chain(self._certificate, self._key)
        self._leaf = leaf
        lifetime = self._leaf.not_valid_after_utc - self._leaf.not_valid_before_utc
        self._next_check = self._leaf.not_valid_before_utc + lifetime * _RENEWED_AFTER


def read_configuration(folder: Path) -> dict[str, Any]:
    """Return the content of `client.toml` of a connected service; raises CertificateUnusable."""
    try:
        with (folder / CONFIGURATION).open("rb") as file:
            return tomllib.load(file)
    except (OSError, ValueError) as failed:
        raise _unusable(f"{CONFIGURATION} is missing or not readable") from failed


def _file(folder: Path, named: object) -> Path:
    """Return a configured file; if the folder was moved or mounted elsewhere, the file of that name in it."""
    path = folder / str(named)
    return path if path.exists() else folder / path.name


def _write(path: Path, content: bytes) -> None:
    """Replace a file atomically, so that no reader sees a part of it."""
    folder = open_folder(path.parent)
    try:
        write_whole(folder, path.name, content)
    finally:
        os.close(folder)


def _spki(certificate: x509.Certificate) -> bytes:
    encoding, form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    return certificate.public_key().public_bytes(encoding, form)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _unusable(detail: str) -> CertificateUnusable:
    return CertificateUnusable("certificate_unusable", detail, "connect the service again: openkcmctl service connect")
