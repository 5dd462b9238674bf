"""The folder of one connected service: its key, its certificate and a configuration its software can use as it is.

The key is made here and never leaves; only a request signed with it does. It is written before anything is asked for
and never replaced. That is why whoever reads certificate and key while a new certificate is written, or after the
writer was killed, has a pair that belongs together: every certificate here is for the one key. Each file is 0600 in a
folder that is 0700, and appears whole or not at all.

Everything is done through a descriptor of the folder that was checked, so that nobody can put another in its place.
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
        """Take the folder of one service, made if it is missing; any tenant's where `tenant_id` is None.

        Raises:
            FolderRefused: it is a link or somebody else's, others may read it or put another in its place, it belongs
                to another service, or it cannot be used.
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
        self._refuse_strangers()

    def request(self) -> str:
        """Return a certificate request with an empty subject: what a certificate says is for its authority to say."""
        return signing_requests.request_of(self._key())

    def refuse_own_key(self) -> None:
        """Raise FolderRefused when there is a key, beside which a certificate for another one would be of no use."""
        if self._is_there(KEY):
            raise FolderRefused(f"{self.path} has a key of its own", "leave --csr out, or use another folder")

    def refuse_strange_key(self) -> None:
        """Raise FolderRefused when there is a certificate, and its key is elsewhere or another is in its place."""
        certificate = self.certificate()
        if certificate is not None and not (
            self._is_there(KEY) and certificate.public_key() == self._key().public_key()
        ):
            raise FolderRefused(f"{self.path} does not have the key of its certificate", "use a new folder")

    def holds_key_of(self, certificate_pem: str) -> bool:
        """Return whether a certificate is for the key in this folder."""
        return x509.load_pem_x509_certificate(certificate_pem.encode()).public_key() == self._key().public_key()

    def key_pem(self) -> str:
        """Return the private key, for the software that wants it in one file with its certificate."""
        try:
            return self._read(KEY).decode("ascii")
        except (OSError, UnicodeDecodeError) as failed:
            raise FolderRefused(f"{self.path / KEY} is not a key that can be read", "use a new folder") from failed

    def certificate(self) -> x509.Certificate | None:
        """Return the certificate that is there now, None before the first; raises FolderRefused."""
        try:
            return x509.load_pem_x509_certificate(self._read(CERTIFICATE))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as failed:
            file = self.path / CERTIFICATE
            raise FolderRefused(f"{file} is not a certificate of a service", "use a new folder") from failed

    def read(self, name: str) -> str | None:
        """Return a file's text, None when there is none or it cannot be read as text."""
        try:
            return self._read(name).decode("utf-8")
        except (OSError, UnicodeDecodeError):
            return None

    def write(self, files: Mapping[str, str]) -> list[str]:
        """Write the files in their order, each in one step, and return their paths."""
        try:
            for name, text in files.items():
                write_whole(self._folder, name, text.encode())
        except OSError as failed:
            raise FolderRefused(f"{self.path} cannot be written", "free some space and run it again") from failed
        return [str(self.path / name) for name in files]

    def write_changed(self, files: Mapping[str, str]) -> list[str]:
        """Write those that are not there as they should be, in their order; return their paths."""
        return self.write({name: text for name, text in files.items() if self.read(name) != text})

    @contextmanager
    def held(self) -> Iterator[None]:
        """Be the only agent of this folder, and clear away what a killed one left; raises AgentRunning."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            lock = os.open(_LOCK, flags, 0o600, dir_fd=self._folder)
        except OSError as failed:
            raise FolderRefused(f"{self.path} cannot be written", "free some space and run it again") from failed
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
        """Remove drafts older than anybody writes; a younger one may be of a client in another process."""
        os.utime(lock)  # now, as the file system has it
        now = os.fstat(lock).st_mtime
        for name in os.listdir(self._folder):  # noqa: PTH208 - a descriptor, under which no path can be swapped
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
            raise FolderRefused(f"{file} is not a key that can be read", "use a new folder") from failed
        if not isinstance(key, PrivateKey):
            raise FolderRefused(f"{file} is of a kind that is not taken", "use a new folder")
        return key

    def _make_key(self, file: Path) -> None:
        pem = signing_requests.key_pem(signing_requests.new_key())
        folder = self._folder
        try:
            draft = write_draft(folder, KEY, pem.encode("ascii"))
            try:
                # Unlike a rename it never replaces a key that somebody else just put there.
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
        """Return a file of ours; a key that others may read is refused. Raises OSError, FolderRefused."""
        # A pipe in place of a file must not keep us waiting.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        with os.fdopen(os.open(name, flags, dir_fd=self._folder), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
                raise FolderRefused(f"{self.path / name} is not a file of ours", "use a new folder")
            if name == KEY and stat.S_IMODE(found.st_mode) & _OTHERS:
                path = self.path / name
                raise FolderRefused(f"{path} is readable by others", "treat the key as stolen and use a new folder")
            return file.read(_LARGEST)

    def _refuse_unsafe(self) -> None:
        found = os.fstat(self._folder)
        if found.st_uid != os.geteuid():
            raise FolderRefused(f"{self.path} belongs to another user", "run as the service's own user")
        if stat.S_IMODE(found.st_mode) & _OTHERS:
            raise FolderRefused(f"{self.path} is open to others", f"choose a new folder, or chmod 700 {self.path}")
        for above in self.path.resolve().parents:
            mode = above.stat().st_mode
            if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
                raise FolderRefused(f"anybody may replace what is in {above}", "choose a folder elsewhere")

    def _refuse_strangers(self) -> None:
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
    """Return tenant and service that a certificate names, None when it is not a service's."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound):
        return None
    for name in names.get_values_for_type(x509.UniformResourceIdentifier):
        found = _NAMED.fullmatch(name)
        if found is not None and name == service_spiffe(found[1], found[2]):
            return found[1], found[2]
    return None
