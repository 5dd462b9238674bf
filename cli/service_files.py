"""The folder of one connected service: its key, its certificate and a configuration its software can use as it is.

The key is made here and never leaves; only a request signed with it does. It is written before anything is asked for
and never replaced: connecting again into the same folder is for the same key. Every file is 0600 in a folder that is
0700, and appears whole or not at all.
"""

import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from tenancy import ids
from tenancy.client_files import CERTIFICATE, KEY
from tenancy.errors import CallerError
from vault import signing_requests
from vault.signing_requests import PrivateKey

_OTHERS = 0o077


class FolderRefused(CallerError):
    """Nothing was written over and nothing was asked for."""

    code = "folder_refused"


class ServiceFolder:
    def __init__(self, path: Path, tenant_id: str, service: str) -> None:
        """Take the folder of one service, made if it is missing.

        Raises:
            FolderRefused: others may read it, it belongs to another service, or it cannot be used.
        """
        self.path = path.absolute()
        self._tenant_id, self._service = tenant_id, service
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            mode = self.path.stat().st_mode
        except OSError as failed:
            raise FolderRefused(f"{self.path} cannot be used as a folder", "choose another with --out") from failed
        if stat.S_IMODE(mode) & _OTHERS:
            raise FolderRefused(f"{self.path} is open to others", f"choose a new folder, or chmod 700 {self.path}")
        self._refuse_strangers()

    def request(self) -> str:
        """Return a certificate request with an empty subject: what a certificate says is for its authority to say."""
        return signing_requests.request_of(self._key())

    def refuse_own_key(self) -> None:
        """Raise FolderRefused when there is a key, beside which a certificate for another one would be of no use."""
        if (self.path / KEY).exists():
            raise FolderRefused(f"{self.path} has a key of its own", "leave --csr out, or use another folder")

    def holds_key_of(self, certificate_pem: str) -> bool:
        """Return whether a certificate is for the key in this folder."""
        return x509.load_pem_x509_certificate(certificate_pem.encode()).public_key() == self._key().public_key()

    def key_pem(self) -> str:
        """Return the private key, for the software that wants it in one file with its certificate."""
        return (self.path / KEY).read_text(encoding="ascii")

    def write(self, files: Mapping[str, str]) -> list[str]:
        """Write the files, each in one step, and return their paths."""
        try:
            for name, text in files.items():
                draft = self._draft(name, text)
                draft.replace(self.path / name)
        except OSError as failed:
            raise FolderRefused(f"{self.path} cannot be written", "free some space and run it again") from failed
        return [str(self.path / name) for name in files]

    def _key(self) -> PrivateKey:
        file = self.path / KEY
        if not file.exists():
            self._make_key(file)
        try:
            if stat.S_IMODE(file.stat().st_mode) & _OTHERS:
                raise FolderRefused(f"{file} is readable by others", "treat the key as stolen and use a new folder")
            key = serialization.load_pem_private_key(file.read_bytes(), password=None)
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as failed:
            raise FolderRefused(f"{file} is not a key that can be read", "use a new folder") from failed
        if not isinstance(key, PrivateKey):
            raise FolderRefused(f"{file} is of a kind that is not taken", "use a new folder")
        return key

    def _make_key(self, file: Path) -> None:
        pem = signing_requests.key_pem(signing_requests.new_key())
        try:
            draft = self._draft(KEY, pem)
            try:
                os.link(draft, file)  # unlike a rename it never replaces a key that somebody else just put there
            except FileExistsError:
                pass
            finally:
                draft.unlink()
        except OSError as failed:
            raise FolderRefused(f"{file} cannot be written", "choose another folder with --out") from failed

    def _draft(self, name: str, text: str) -> Path:
        draft = self.path / f".{name}.{secrets.token_hex(4)}"
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        return draft

    def _refuse_strangers(self) -> None:
        file = self.path / CERTIFICATE
        if not file.exists():
            return
        try:
            certificate = x509.load_pem_x509_certificate(file.read_bytes())
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except (OSError, ValueError, x509.ExtensionNotFound) as failed:
            raise FolderRefused(f"{file} is not a certificate of a service", "use a new folder") from failed
        mine = ids.service_spiffe(self._tenant_id, self._service)
        if mine not in names.get_values_for_type(x509.UniformResourceIdentifier):
            raise FolderRefused(f"{self.path} belongs to another service", "use a folder for each service")
