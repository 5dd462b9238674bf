"""A PostgreSQL of each supported version; scripts/setup.sh installs those that are not embedded."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict

from devstack.servers import postgres as embedded
from tests.concurrency import wait_until
from tests.database.fixtures import Field, prepare, with_secrets
from tests.ports import free_port
from tests.programs import ENVIRONMENT, child, give, unprivileged


@contextmanager
def running(version: str, **server_settings: str) -> Iterator[str]:
    """Start a PostgreSQL of a major version (`embedded` or a number) and yield its superuser's connection string.

    `server_settings` are further settings, by name.

    PostgreSQL refuses to run as root, so root runs it as an unprivileged user, who needs access to every folder above
    the programs and the data. Neither a checkout nor the folder of pytest guarantees that.
    """
    folder = Path(tempfile.mkdtemp())
    account = unprivileged()
    try:
        folder.chmod(0o755)
        programs = _programs(version, folder)
        data = folder / "data"
        data.mkdir(mode=0o700)
        give(account, data)
        options = ["--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C", "--no-sync"]
        wrapper = child(account, signal.SIGQUIT)
        subprocess.run(
            [*wrapper, programs / "initdb", "-D", data, *options], cwd=data, check=True, stdout=subprocess.DEVNULL
        )
        port = free_port()
        settings = ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "fsync=off"]
        settings += [part for name, value in server_settings.items() for part in ("-c", f"{name}={value}")]
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(
                [*wrapper, programs / "postgres", "-D", data, "-p", str(port), *settings], cwd=data, stderr=log
            )
        try:
            conninfo = f"host=127.0.0.1 port={port} user=postgres dbname=postgres"
            wait_until(lambda: _answers(conninfo), lambda: (folder / "log").read_text(encoding="utf-8"))
            yield conninfo
        finally:
            server.send_signal(signal.SIGINT)
            server.wait()
    finally:
        shutil.rmtree(folder)


@contextmanager
def migrated(version: str, **server_settings: str) -> Iterator[Field]:
    """Start a PostgreSQL as `running` does and yield its migrated, empty database."""
    with running(version, **server_settings) as conninfo:
        server = with_secrets(conninfo)
        prepare(server, "openkcm")
        address = conninfo_to_dict(conninfo)
        field = Field(server, "openkcm", f"postgresql://{address['host']}:{address['port']}/openkcm")
        try:
            yield field
        finally:
            field.close()


def _programs(version: str, folder: Path) -> Path:
    if version == "embedded":
        return embedded._programs(reachable_by_others=os.geteuid() == 0)
    (installed,) = ENVIRONMENT.glob(f"postgresql/{version}.*")
    if all(above.stat().st_mode & 0o001 for above in (installed, *installed.parents)):
        return installed / "bin"
    shutil.copytree(installed, folder / "programs", symlinks=True)
    return folder / "programs" / "bin"


def _answers(conninfo: str) -> bool:
    try:
        psycopg.connect(conninfo).close()
    except psycopg.OperationalError:
        return False
    return True
