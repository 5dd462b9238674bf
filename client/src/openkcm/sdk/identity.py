"""The service's certificate and key on disk, as `openkcmctl service connect --out` wrote them, and their renewal.

A renewed certificate is for the same key, which never leaves this machine. It is written in one step with mode 0600
and put into the TLS context that is in use: the next connection shows it, and open ones go on.
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

from openkcm.credentials.files import open_folder, write_whole
from openkcm.sdk.errors import CertificateUnusable

CONFIGURATION = "client.toml"
_FILES = {"certificate": "client.pem", "key": "client.key", "ca": "ca.pem"}
_RENEWED_AFTER = 2 / 3
_LOOKS = 60
"""While no renewed certificate is there yet, it is asked for this often in the last third of the old one's life."""


def _now() -> datetime:
    return datetime.now(UTC)


class Identity:
    """Paths of `certificate` (leaf and chain), `key` and `ca`, all PEM; safe to use from several threads."""

    def __init__(self, certificate: Path, key: Path, ca: Path, now: Callable[[], datetime] = _now) -> None:
        """Read the files. Raises CertificateUnusable."""
        self._certificate, self._key, self._now = certificate, key, now
        self._lock = threading.Lock()
        self._next_look = datetime.min.replace(tzinfo=UTC)
        try:
            self.context = ssl.create_default_context(cafile=str(ca))
            self.context.minimum_version = ssl.TLSVersion.TLSv1_2
            self._load()
        except (OSError, ValueError) as failed:
            raise _unusable("the certificate, key or authority file cannot be used") from failed

    @classmethod
    def from_folder(cls, folder: Path, now: Callable[[], datetime] = _now) -> "Identity":
        """Return the identity that `client.toml` in `folder` names; raises CertificateUnusable."""
        named = read_configuration(folder)
        certificate, key, ca = (_file(folder, named.get(kind, default)) for kind, default in _FILES.items())
        return cls(certificate, key, ca, now)

    @property
    def not_after(self) -> datetime:
        """When the certificate in use ends."""
        return self._leaf.not_valid_after_utc

    def claim_renewal(self) -> bool:
        """Whether to look for a renewed certificate now; one caller is told so, the others go on."""
        if self._now() < self._next_look:  # read without the lock: a look more or less does no harm
            return False
        with self._lock:
            if self._now() < self._next_look:
                return False
            life = self._leaf.not_valid_after_utc - self._leaf.not_valid_before_utc
            self._next_look = self._now() + life * (1 - _RENEWED_AFTER) / _LOOKS
            return True

    def reload(self) -> bool:
        """Take the files' certificate when another process has renewed it there; raises CertificateUnusable."""
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
        """Take the certificate the service answered with; False when it is the one in use.

        Raises:
            CertificateUnusable: it is for another key, which is to be had from `openkcmctl service connect` only; or it
                cannot be read or written. Nothing was replaced.
        """
        with self._lock:
            try:
                leaf = x509.load_pem_x509_certificate(str(answer["certificate"]).encode())
                chain = x509.load_pem_x509_certificates(str(answer["chain"]).encode())
                same_key = _spki(leaf) == _spki(self._leaf)
            except (KeyError, ValueError) as failed:
                raise _unusable("the answered certificate cannot be read") from failed
            if leaf == self._leaf:
                return False
            if not same_key:
                raise _unusable("the service's newest certificate is for another key")
            # The root is the server's to know; sent along it would only make handshakes longer.
            wanted = dict.fromkeys([leaf, *(one for one in chain if one.subject != one.issuer)])
            try:
                _write(self._certificate, b"".join(map(_pem, wanted)))
                self._load()
            except (OSError, ValueError) as failed:
                raise _unusable("the renewed certificate cannot be written or used") from failed
            return True

    def _load(self) -> None:
        self.context.load_cert_chain(self._certificate, self._key)
        self._leaf = x509.load_pem_x509_certificate(self._certificate.read_bytes())
        life = self._leaf.not_valid_after_utc - self._leaf.not_valid_before_utc
        self._next_look = self._leaf.not_valid_before_utc + life * _RENEWED_AFTER


def read_configuration(folder: Path) -> dict[str, Any]:
    """Return what `client.toml` of a connected service says; raises CertificateUnusable."""
    try:
        with (folder / CONFIGURATION).open("rb") as file:
            return tomllib.load(file)
    except (OSError, ValueError) as failed:
        raise _unusable(f"{CONFIGURATION} is missing or not readable") from failed


def _file(folder: Path, named: object) -> Path:
    """Return a named file; where the folder was moved or mounted elsewhere, the one of that name in it."""
    path = folder / str(named)
    return path if path.exists() else folder / path.name


def _write(path: Path, content: bytes) -> None:
    """Replace a file in one step, so that no reader ever sees half of it."""
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
