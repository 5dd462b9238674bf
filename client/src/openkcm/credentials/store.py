"""The folder of one connected service: its key, its certificate and configuration for its software.

The key is generated here and never leaves the folder; only a request signed with it does. It is stored before any
request and never replaced, so every certificate in the folder is for this one key. A reader therefore finds a matching
pair even while a certificate is replaced or after the writer was killed. Each file has mode 0600 in a folder with mode
0700, and is written atomically.

All access uses one descriptor of the folder that was checked, so the folder cannot be exchanged.
"""

import fcntl
import os
import re
import stat
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from openkcm.contract import csr as signing_requests
from openkcm.contract.client_files import CERTIFICATE, KEY
from openkcm.contract.csr import PrivateKey
from openkcm.contract.names import service_spiffe
from openkcm.credentials.files import DRAFT, forget_draft, open_folder, write_draft, write_whole
from openkcm.errors import AgentRunning, FolderRefused

_OTHERS = 0o077
_LOCK = "agent.lock"
_LARGEST = 1 << 20
_DRAFT_SECONDS = 60


class CredentialStore:
    def __init__(self, path: Path, tenant_id: str | None, service: str) -> None:
        """Open the folder of one service and create it if it is missing; any tenant's if `tenant_id` is None.

        Raises:
            FolderRefused: it is a link or belongs to another user or service, other users may read or replace it, or
                it cannot be used.
        """
        self.path = path.absolute()
        self.tenant_id, self._service = tenant_id, service
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._folder = open_folder(self.path)
        except OSError as failed:
            raise FolderRefused(f"{self.path} cannot be used as a folder", "choose another with --out") from failed
        weakref.finalize(self, os.close, self._folder)
        self._refuse_unsafe()
        self._require_own_certificate()

    def request(self) -> str:
        """Return a certificate request with an empty subject: the CA alone determines the names in a certificate."""
        return signing_requests.request_of(self._key())

    def refuse_own_key(self) -> None:
        """Raise FolderRefused if the folder has a key, since a certificate for another key would be useless there."""
        if self._is_there(KEY):
            raise FolderRefused(f"{self.path} already has a key", "leave --csr out, or use another folder")

    def require_key_of_certificate(self) -> None:
        """Raise FolderRefused if the folder has a certificate, but not the key that it was issued for."""
        certificate = self.certificate()
        if certificate is not None and not (
            self._is_there(KEY) and certificate.public_key() == self._key().public_key()
        ):
            raise FolderRefused(f"{self.path} does not have the key of its certificate", "use a new folder")

    def holds_key_of(self, certificate_pem: str) -> bool:
        """Return whether a certificate is for the key in this folder."""
        return x509.load_pem_x509_certificate(certificate_pem.encode()).public_key() == self._key().public_key()

    def key_pem(self) -> str:
        """Return the private key, for software that requires it in one file with its certificate."""
        try:
            return self._read(KEY).decode("ascii")
        except (OSError, UnicodeDecodeError) as failed:
            raise FolderRefused(f"{self.path / KEY} is not a readable key", "use a new folder") from failed

    def certificate(self) -> x509.Certificate | None:
        """Return the present certificate, None before the first; raises FolderRefused."""
        try:
            return x509.load_pem_x509_certificate(self._read(CERTIFICATE))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as failed:
            file = self.path / CERTIFICATE
            raise FolderRefused(f"{file} is not a certificate of a service", "use a new folder") from failed

    def read(self, name: str) -> str | None:
        """Return a file's text, None if the file is missing or not text."""
        try:
            return self._read(name).decode("utf-8")
        except (OSError, UnicodeDecodeError):
            return None

    def write(self, files: Mapping[str, str]) -> list[str]:
        """Write the files in their order, each atomically, and return their paths."""
        try:
            for name, text in files.items():
                write_whole(self._folder, name, text.encode())
        except OSError as failed:
            raise FolderRefused(f"{self.path} cannot be written", "free some space and retry") from failed
        return [str(self.path / name) for name in files]

    def write_changed(self, files: Mapping[str, str]) -> list[str]:
        """Write the files that differ from the stored ones, in their order; return their paths."""
        return self.write({name: text for name, text in files.items() if self.read(name) != text})

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the exclusive lock of the folder, and remove drafts of killed writers; raises AgentRunning."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            lock = os.open(_LOCK, flags, 0o600, dir_fd=self._folder)
        except OSError as failed:
            raise FolderRefused(f"{self.path} cannot be written", "free some space and retry") from failed
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise AgentRunning from None
            self._clear_drafts(lock)
            yield
        finally:
            os.close(lock)

    def _clear_drafts(self, lock: int) -> None:
        """Remove drafts that are too old to be in use; a recent one may belong to a client in another process."""
        os.utime(lock)  # the present time by the clock of the file system
        now = os.fstat(lock).st_mtime
        for name in os.listdir(self._folder):  # noqa: PTH208 - a descriptor: the path cannot be exchanged
            if re.fullmatch(DRAFT, name):
                with suppress(OSError):
                    if now - os.stat(name, dir_fd=self._folder, follow_symlinks=False).st_mtime > _DRAFT_SECONDS:
                        forget_draft(self._folder, name)

    def _key(self) -> PrivateKey:
        file = self.path / KEY
        if not self._is_there(KEY):
            self._make_key(file)
        try:
            key = serialization.load_pem_private_key(self._read(KEY), password=None)
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as failed:
            raise FolderRefused(f"{file} is not a readable key", "use a new folder") from failed
        if not isinstance(key, PrivateKey):
            raise FolderRefused(f"{file} has an unsupported kind of key", "use a new folder")
        return key

    def _make_key(self, file: Path) -> None:
        pem = signing_requests.key_pem(signing_requests.new_key())
        folder = self._folder
        try:
            draft = write_draft(folder, KEY, pem.encode("ascii"))
            try:
                # Unlike a rename, a link never replaces a key that another process has just written.
                os.link(draft, KEY, src_dir_fd=folder, dst_dir_fd=folder)
                os.fsync(folder)
            except FileExistsError:
                pass
            finally:
                forget_draft(folder, draft)
        except OSError as failed:
            raise FolderRefused(f"{file} cannot be written", "choose another folder with --out") from failed

    def _is_there(self, name: str) -> bool:
        try:
            os.stat(name, dir_fd=self._folder, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def _read(self, name: str) -> bytes:
        """Return the content of an owned file; reject a key that others may read. Raises OSError, FolderRefused."""
        # O_NONBLOCK: a pipe in place of the file must not block the agent.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        with os.fdopen(os.open(name, flags, dir_fd=self._folder), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
                raise FolderRefused(f"{self.path / name} is not a regular file of this user", "use a new folder")
            if name == KEY and stat.S_IMODE(found.st_mode) & _OTHERS:
                path = self.path / name
                raise FolderRefused(f"{path} is readable by others", "treat the key as compromised; use a new folder")
            return file.read(_LARGEST)

    def _refuse_unsafe(self) -> None:
        found = os.fstat(self._folder)
        if found.st_uid != os.geteuid():
            raise FolderRefused(f"{self.path} belongs to another user", "run as the service's user")
        if stat.S_IMODE(found.st_mode) & _OTHERS:
            raise FolderRefused(f"{self.path} is accessible to others", f"use a new folder, or chmod 700 {self.path}")
        for above in self.path.resolve().parents:
            mode = above.stat().st_mode
            if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
                raise FolderRefused(f"other users may replace files in {above}", "use another folder")

    def _require_own_certificate(self) -> None:
        certificate = self.certificate()
        if certificate is None:
            return
        named = service_of(certificate)
        if named is None:
            raise FolderRefused(f"{self.path / CERTIFICATE} is not a certificate of a service", "use a new folder")
        if named != (self.tenant_id or named[0], self._service):
            raise FolderRefused(f"{self.path} belongs to another service", "use a folder for each service")
        self.tenant_id = named[0]


_NAMED = re.compile(r"spiffe://([^/.]+)\.[^/]+/service/([^/]+)")


def service_of(certificate: x509.Certificate) -> tuple[str, str] | None:
    """Return tenant and service that a certificate names, None if it is not a service certificate."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound):
        return None
    for name in names.get_values_for_type(x509.UniformResourceIdentifier):
        found = _NAMED.fullmatch(name)
        if found is not None and name == service_spiffe(found[1], found[2]):
            return found[1], found[2]
    return None
