"""`openkcmctl doctor --stores` names and repairs differences between real servers."""

import json
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from cli.connections import ask_gateway
from cli.doctor import Doctor
from core import names as ids
from core.errors.tenants import TenantUnknown
from core.tenants.lifecycle import State
from core.tenants.locks import LockReason, LockRecord
from tests.cli.services.service_stand import Command
from tests.vault.server import Server
from vault.tenant_locks import TenantLocks


class Stores:
    """One tenant, the doctor's command for it, and the key server of an administrator."""

    def __init__(self, command: Command, vault: Server) -> None:
        self.command, self.tenant_id, self.vault = command, command.tenant_id, vault
        self.locks = TenantLocks(vault.session("worker"))
        self.admin = vault.admin()
        self.l2 = f"transit/keys/{ids.l2_key(command.tenant_id)}"

    def doctor(self, *words: str) -> tuple[int, list[str]]:
        """Return the exit status and the kinds that the command names for this tenant."""
        done = CliRunner().invoke(application(), ["doctor", "--stores", "--tenant", self.tenant_id, *words, "--json"])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        # Before it are lines of the worker's log, which runs in this process.
        document: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{\n") :])
        assert all(skew["remedy"] and skew["meaning"] for skew in document["skews"])
        return done.exit_code, [skew["kind"] for skew in document["skews"]]

    @property
    def state(self) -> State:
        return self.command.tenant.tenant_row.state

    def recorded(self, name: str) -> list[dict[str, Any]]:
        return self.command.tenant.records(name)


def application() -> typer.Typer:
    app = typer.Typer()
    app.callback()(lambda: None)
    app.command("doctor")(Doctor(ask_gateway, again_seconds=0.5).doctor)
    return app


@pytest.fixture
def stores(command: Command, vault: Server) -> Stores:
    """A tenant with a service key, in stores that agree."""
    stores = Stores(command, vault)
    assert stores.doctor() == (1, ["workflow_missing"])  # its steps ran without a workflow
    assert stores.doctor("--repair") == (0, [])
    command.connect()
    return stores


def test_misspelt_tenant_does_not_pass_as_one_without_differences(stores: Stores) -> None:
    words = ["doctor", "--stores", "--tenant", f"{stores.tenant_id}-5"]
    assert isinstance(CliRunner().invoke(application(), words).exception, TenantUnknown)


def test_lock_that_only_the_key_server_has_is_applied_again(stores: Stores) -> None:
    stores.locks.record(stores.tenant_id, LockRecord(State.LOCKED, frozenset({LockReason.BREACH}), 10_000, "ff"))
    assert stores.doctor() == (1, ["lock_lost"])
    assert stores.state is State.ACTIVE
    for _ in range(2):
        assert stores.doctor("--repair") == (0, [])
        assert stores.state is State.LOCKED
    assert set(stores.command.tenant.tenant_row.locks) == {LockReason.BREACH}
    (locked,) = stores.recorded("tenant.locked")
    assert (locked["details"]["asked_by"], locked["details"]["code"]) == ("repair", "lock_lost")
    assert [one["outcome"] for one in stores.recorded("tenant.repair_requested")][-2:] == ["intended", "success"]


def test_offboarding_that_only_the_key_server_has_starts_again_and_can_be_restored(stores: Stores) -> None:
    stores.locks.record(stores.tenant_id, LockRecord(State.LEAVING, seq=10_000, chain_hash="ff"))
    assert stores.doctor() == (1, ["offboarding_lost"])
    assert stores.doctor("--repair") == (0, [])
    assert stores.state is State.LEAVING
    assert stores.command.run("tenant", "restore", stores.tenant_id)["state"] == "active"
    assert stores.locks.get(stores.tenant_id) is None


def test_retired_versions_that_wrap_keys_are_enabled_and_the_newer_version_is_adopted(stores: Stores) -> None:
    for _ in range(2):
        stores.admin.write(f"{stores.l2}/rotate")
    stores.admin.write(f"{stores.l2}/config", {"min_decryption_version": 3, "min_encryption_version": 3})
    assert stores.doctor() == (1, ["key_versions_retired"])
    assert stores.doctor("--repair") == (1, ["tenant_key_newer"])
    assert (stores.admin.read(stores.l2) or {})["min_decryption_version"] == 1


def test_tenant_whose_key_versions_are_deleted_is_locked(stores: Stores) -> None:
    stores.admin.write(f"{stores.l2}/rotate")
    stores.admin.write(f"{stores.l2}/config", {"min_decryption_version": 2, "min_encryption_version": 2})
    stores.admin.write(f"{stores.l2}/trim", {"min_available_version": 2})
    assert stores.doctor() == (1, ["key_versions_destroyed"])
    assert stores.doctor("--repair") == (1, ["key_versions_destroyed"])
    assert stores.state is State.LOCKED


def test_tenant_without_its_key_is_locked(stores: Stores) -> None:
    stores.admin.write(f"{stores.l2}/config", {"deletion_allowed": True})
    stores.admin.delete(stores.l2)
    assert stores.doctor() == (1, ["tenant_key_missing"])
    assert stores.doctor("--repair") == (1, ["tenant_key_missing"])
    assert stores.state is State.LOCKED
