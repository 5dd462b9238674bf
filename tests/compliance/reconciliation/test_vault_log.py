"""Reader of the key server's audit log: logs of a real server, and modified logs."""

import gzip
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from compliance.reconciliation.ledger import ServerLog
from compliance.reconciliation.model import (
    DiscrepancyKind,
    KeyKind,
    KeyOperation,
    RequestOutcome,
    ServerEvent,
    Severity,
)
from compliance.reconciliation.vault_log import files_of, read_log
from core import names as ids
from core.errors.keys import WrongContext
from core.errors.platform import VaultRefused
from core.keys.encryption_context import EncryptionContext, Purpose
from openkcm.errors import FileRefused
from tests.vault.server import Server, start
from vault.auth.client import VaultRejected
from vault.auth.tenant_tokens import InlineTenants, TenantTokens
from vault.pki.authorities import PkiAuthorities
from vault.transit.key_destruction import TenantKeyKind, TransitDestroyer
from vault.transit.payload_keys import TransitPayloadKeys
from vault.transit.root_keys import TransitRootKeys
from vault.transit.tenant_keys import TransitTenantKeys

pytestmark = pytest.mark.integration  # starts a dedicated OpenBao
TENANT, OTHER = "acme-corp-12345", "beta-corp-67890"
L2, CA = ids.l2_key(TENANT), ids.ca_key(TENANT)
PLACE = EncryptionContext(TENANT, L2, "orders", Purpose.SERVICE_KEY, "1")


@dataclass
class Scene:
    """A dedicated server; `new` returns the events of the log since the last call."""

    server: Server
    known: int = 0

    @property
    def path(self) -> Path:
        return self.server.folder / "logs" / "audit.log"

    def new(self) -> list[ServerEvent]:
        events = sorted(
            (one for found in read_log([self.path]).events.values() for one in found), key=lambda one: one.at
        )
        fresh, self.known = events[self.known :], len(events)
        return fresh


@pytest.fixture(scope="module")
def booted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, ServerLog]]:
    """A server and its log as it is before any test sends a request."""
    server = start(tmp_path_factory.mktemp("logged"))
    yield server, read_log([server.folder / "logs" / "audit.log"])
    server.kill()


@pytest.fixture(scope="module")
def log_server(booted: tuple[Server, ServerLog]) -> Server:
    return booted[0]


@pytest.fixture
def scene(log_server: Server) -> Scene:
    scene = Scene(log_server)
    scene.new()
    return scene


@pytest.fixture
def keys(log_server: Server) -> TransitTenantKeys:
    worker = log_server.session("worker")
    keys = TransitTenantKeys(worker, InlineTenants(worker, log_server.identity_pem, "worker"))
    for tenant_id in (TENANT, OTHER):
        keys.ensure(tenant_id)
    keys.decrypt(PLACE, keys.encrypt(PLACE, b"log in and detect the features of the server"))
    return keys


def summaries(events: list[ServerEvent]) -> list[tuple[KeyOperation, str, str]]:
    return [(one.act, one.key, one.who) for one in events]


def test_first_boot_is_recorded_as_set_up_by_the_server(booted: tuple[Server, ServerLog]) -> None:
    log = booted[1]
    set_up = [one for one in log.events[""] if one.act is KeyOperation.SET_UP]
    assert {one.who for one in set_up} == {"first boot"}
    assert "sys/policies/acl/openkcm-tenant" in {one.path for one in set_up}
    # Only tests create an administrator.
    others = {one.path for one in log.events[""] if one.act is KeyOperation.ADMINISTERED}
    assert {path for path in others if "test-admin" not in path} == set()
    assert log.faults == []


def test_created_keys_are_distinguished_from_existing_ones_and_versions_are_recorded(
    scene: Scene, keys: TransitTenantKeys
) -> None:
    fresh = "fresh-corp-1"
    name = ids.l2_key(fresh)
    scene.new()
    keys.ensure(fresh)
    keys.rotate(fresh, 1)
    keys.retire(fresh, 2)
    keys.trim(fresh, 2)
    keys.disable(fresh)
    keys.ensure(fresh)
    changes = [one for one in scene.new() if one.act is not KeyOperation.READ]
    assert [(one.act, one.version) for one in changes] == [
        (KeyOperation.MADE, 0),
        (KeyOperation.ROTATED, 2),
        (KeyOperation.RETIRED, 2),
        (KeyOperation.TRIMMED, 2),
        (KeyOperation.DISABLED, 0),
        (KeyOperation.ENSURED, 0),
        (KeyOperation.ENABLED, 0),
    ]
    assert {(one.key, one.tenant_id, one.who, one.answer) for one in changes} == {
        (name, fresh, "worker", RequestOutcome.DONE)
    }


def test_each_use_has_its_context_and_count(scene: Scene, keys: TransitTenantKeys) -> None:
    root_keys = TransitRootKeys(scene.server.session("worker"))
    root = root_keys.ensure("eu-west-1").name
    scene.new()
    inner = keys.new_wrapped_key(PLACE)
    keys.rewrap([(PLACE, inner), (PLACE, inner)])
    keys.decrypt(PLACE, inner)
    with pytest.raises(WrongContext):
        keys.decrypt(EncryptionContext(TENANT, L2, "billing", Purpose.SERVICE_KEY, "1"), inner)
    wraps = root_keys.wrap_all(root, [(PLACE.encode(), inner.encode())] * 3)
    root_keys.unwrap(root, PLACE.encode(), wraps[0])
    uses = scene.new()
    assert [(one.act, one.layer, one.count, one.answer) for one in uses] == [
        (KeyOperation.WRAPPED, KeyKind.TENANT_KEY, 1, RequestOutcome.DONE),
        (KeyOperation.REWRAPPED, KeyKind.TENANT_KEY, 2, RequestOutcome.DONE),
        (KeyOperation.REWRAPPED, KeyKind.TENANT_KEY, 2, RequestOutcome.DONE),
        (KeyOperation.DECRYPTED, KeyKind.TENANT_KEY, 1, RequestOutcome.DONE),
        (KeyOperation.DECRYPTED, KeyKind.TENANT_KEY, 1, RequestOutcome.FAILED),
        (KeyOperation.ENCRYPTED, KeyKind.ROOT_KEY, 3, RequestOutcome.DONE),
        (KeyOperation.DECRYPTED, KeyKind.ROOT_KEY, 1, RequestOutcome.DONE),
    ]
    assert {one.tenant_id for one in uses} == {TENANT}
    assert {one.context for one in uses} == {PLACE, EncryptionContext(TENANT, L2, "billing", Purpose.SERVICE_KEY, "1")}
    assert [one.who for one in uses] == [f"tenant:{TENANT}"] * 5 + ["worker"] * 2


def test_ca_event_has_its_serial_and_destruction_its_identity(scene: Scene, keys: TransitTenantKeys) -> None:
    worker, offboarding = scene.server.session("worker"), scene.server.session("offboarding")
    gone = "gone-corp-1"
    keys.ensure(gone)
    TransitPayloadKeys(worker).ensure(gone)
    scene.new()
    authority = PkiAuthorities(worker).ensure(gone, lambda _serials: ())
    (signed,) = [one for one in scene.new() if one.act is KeyOperation.AUTHORITY]
    assert (signed.serial, signed.tenant_id) == (authority.serial, gone)
    destroyer = TransitDestroyer(offboarding, worker)
    for kind in TenantKeyKind:
        destroyer.destroy(kind, gone)
    assert [(one.act, one.who) for one in scene.new() if one.act is not KeyOperation.READ] == [
        (KeyOperation.DELETION_ALLOWED, "offboarding"),
        (KeyOperation.DELETED, "offboarding"),
    ] * 3


def test_events_name_unknown_identities_and_foreign_tokens(scene: Scene, keys: TransitTenantKeys) -> None:
    victim = "victim-corp-1"
    stolen = keys.ensure(victim).name
    admin = scene.server.admin()
    scene.new()
    admin.read(f"transit/keys/{stolen}")
    admin.write(f"transit/keys/{stolen}/rotate")
    admin.write(f"transit/keys/{stolen}/config", {"allow_plaintext_backup": True, "exportable": True})
    admin.read(f"transit/backup/{stolen}")
    admin.write("sys/policies/acl/openkcm-tenant-extra", {"policy": 'path "transit/*" { capabilities = ["read"] }'})
    other = TenantTokens(scene.server.session("worker"), scene.server.identity_pem).session(OTHER)
    with pytest.raises(VaultRefused):
        other.write(f"transit/datakey/wrapped/{stolen}", {"context": "AAAA"})
    administrator = "approle test-admin"
    found = scene.new()
    assert summaries(found) == [
        (KeyOperation.READ, stolen, administrator),
        (KeyOperation.ROTATED, stolen, administrator),
        (KeyOperation.CONFIGURED, stolen, administrator),
        (KeyOperation.OTHER, f"transit/backup/{stolen}", administrator),
        (KeyOperation.ADMINISTERED, "sys/policies/acl/openkcm-tenant-extra", administrator),
        (KeyOperation.WRAPPED, stolen, f"tenant:{OTHER}"),
    ]
    assert [one.answer for one in found] == [RequestOutcome.DONE] * 5 + [RequestOutcome.REFUSED]
    assert [one.tenant_id for one in found] == [victim] * 4 + ["", victim]


def test_unknown_paths_below_transit_or_pki_become_events(scene: Scene) -> None:
    admin = scene.server.admin()
    scene.new()
    for path in ("transit/random/32", "transit/hmac/some-key", "pki/issue/anything"):
        with suppress(VaultRejected):
            admin.write(path, {"input": "AAAA"})
    assert [(one.act, one.path) for one in scene.new()] == [
        (KeyOperation.OTHER, "transit/random/32"),
        (KeyOperation.OTHER, "transit/hmac/some-key"),
        (KeyOperation.OTHER, "pki/issue/anything"),
    ]


def test_events_contain_no_hidden_values_and_no_ciphertexts(scene: Scene, keys: TransitTenantKeys) -> None:
    keys.encrypt(PLACE, b"a secret")
    kept = repr(read_log([scene.path]).events)
    assert "hmac-sha256" not in kept
    assert "vault:v" not in kept


# ── modified logs ────────────────────────────────────────────────────────────────────────────────────────────────────

Lines = list[bytes]


@pytest.fixture
def lines(scene: Scene, keys: TransitTenantKeys) -> Lines:
    """A log of the server with changed times: one request every quarter of an hour."""
    keys.encrypt(PLACE, b"x")
    begun = datetime(2026, 3, 1, tzinfo=UTC)
    entries = [json.loads(line) for line in scene.path.read_bytes().splitlines()[-40:]]
    paired: dict[str, list[dict[str, Any]]] = {}
    for entry in entries:
        paired.setdefault(entry["request"]["id"], []).append(entry)
    found: Lines = []
    for number, pair in enumerate(pair for pair in paired.values() if len(pair) == 2):
        at = begun + number * timedelta(minutes=15)
        time = f"{at:%Y-%m-%dT%H:%M:%S}.123456789Z"
        found += [json.dumps(one | {"time": time}, separators=(",", ":")).encode() + b"\n" for one in pair]
    return found


def reading(folder: Path, *logs: Lines, since: datetime | None = None) -> ServerLog:
    files = []
    for number, log in enumerate(logs):
        files.append(folder / f"audit-{number}.log")
        files[-1].write_bytes(b"".join(log))
    return read_log(files, since)


MODIFIED: dict[str, tuple[Callable[[Lines], Lines], DiscrepancyKind]] = {
    "a response removed": (lambda log: log[:5] + log[6:], DiscrepancyKind.UNANSWERED),
    "a request removed": (lambda log: log[:4] + log[5:], DiscrepancyKind.UNASKED),
    "a split line": (lambda log: [*log[:4], log[4][:80] + b"\n", log[4][80:], *log[5:]], DiscrepancyKind.UNREADABLE),
    "an invalid line": (lambda log: [*log[:4], b'{"time": 7}\n', *log[4:]], DiscrepancyKind.UNREADABLE),
    "a repeated pair": (lambda log: [*log[:6], *log[4:6], *log[6:]], DiscrepancyKind.REPEATED),
    "swapped halves": (
        lambda log: log[len(log) // 4 * 2 :] + log[: len(log) // 4 * 2],
        DiscrepancyKind.BACKWARDS,
    ),
}


@pytest.mark.parametrize(("modify", "kind"), MODIFIED.values(), ids=list(MODIFIED))
def test_modified_log_is_reported(
    tmp_path: Path, lines: Lines, modify: Callable[[Lines], Lines], kind: DiscrepancyKind
) -> None:
    assert reading(tmp_path, lines).faults == []
    faults = reading(tmp_path, modify(lines)).faults
    assert kind in {fault.kind for fault in faults}
    assert {fault.severity for fault in faults} == {Severity.DIFFERENCE}


def test_invalid_line_has_the_time_of_the_entries_before_it(tmp_path: Path, lines: Lines) -> None:
    (fault,) = reading(tmp_path, [*lines[:4], b"{\n", *lines[4:]]).faults
    assert fault.at == reading(tmp_path, lines[:4]).end
    assert [fault.at for fault in reading(tmp_path, [b"{\n", *lines]).faults] == [None]


def test_incomplete_last_line_is_a_fault_only_in_a_rotated_file(tmp_path: Path, lines: Lines) -> None:
    torn = [*lines[:-1], lines[-1][:100]]
    assert reading(tmp_path, torn).faults == []
    assert {fault.kind for fault in reading(tmp_path, torn, lines).faults} >= {DiscrepancyKind.UNREADABLE}


def test_rotated_and_compressed_files_are_read_as_one_log(tmp_path: Path, lines: Lines) -> None:
    half = len(lines) // 4 * 2 + 1  # between a request and its response
    current, before = tmp_path / "audit.log", tmp_path / "audit.log.1.gz"
    before.write_bytes(gzip.compress(b"".join(lines[:half])))
    current.write_bytes(b"".join(lines[half:]))
    (tmp_path / "other.log").write_bytes(b"no log")
    assert files_of(current) == [before, current]
    whole, both = reading(tmp_path, lines), read_log([before, current])
    assert (both.faults, both.lines, both.events) == ([], whole.lines, whole.events)
    broken = tmp_path / "broken.gz"
    broken.write_bytes(before.read_bytes()[:-20])
    with pytest.raises(FileRefused, match="truncated"):
        read_log([broken])
    with pytest.raises(FileRefused, match="No such file"):
        read_log([tmp_path / "missing.log"])


def test_logs_of_several_nodes_are_one_log(tmp_path: Path, lines: Lines) -> None:
    """A node is active at the beginning and at the end, another one in between; the first one started again then."""
    third = len(lines) // 3 // 2 * 2
    started = json.loads(lines[2 * third]) | {"type": "request"}
    started["request"] |= {"id": "start", "path": "sys/audit/test"}
    nodes = {
        "a": [*lines[:third], json.dumps(started).encode() + b"\n", *lines[2 * third :]],
        "b": lines[third : 2 * third],
    }
    files = []
    for name, of_node in nodes.items():
        (tmp_path / name).mkdir()
        files.append(tmp_path / name / "audit.log")
        files[-1].write_bytes(b"".join(of_node))
    whole, merged = reading(tmp_path, lines), read_log(files_of(*files))
    assert (merged.faults, merged.begin, merged.end) == ([], whole.begin, whole.end)
    assert merged.lines == whole.lines + 1
    assert merged.events == whole.events


def test_file_that_is_named_twice_is_rejected(tmp_path: Path, lines: Lines) -> None:
    file = tmp_path / "audit.log"
    file.write_bytes(b"".join(lines))
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    for again in (file, tmp_path / "link" / "audit.log"):
        with pytest.raises(FileRefused, match="named twice"):
            read_log([file, again])


def test_lines_before_since_only_set_the_begin_of_the_log(tmp_path: Path, lines: Lines) -> None:
    since = datetime(2026, 3, 1, 1, tzinfo=UTC)
    log, whole = reading(tmp_path, lines, since=since), reading(tmp_path, lines)
    assert (log.begin, log.lines, log.faults) == (whole.begin, whole.lines - 8, [])
    assert all(one.at >= since for found in log.events.values() for one in found)


def test_requests_interrupted_by_a_restart_are_notices(tmp_path: Path, lines: Lines) -> None:
    started = json.loads(lines[8]) | {"type": "request"}
    started["request"] |= {"id": "start", "path": "sys/audit/test"}
    faults = reading(tmp_path, [*lines[:5], json.dumps(started).encode() + b"\n", *lines[8:]]).faults
    assert [(fault.kind, fault.severity) for fault in faults] == [(DiscrepancyKind.UNANSWERED, Severity.NOTICE)]


def test_only_twenty_faults_of_a_kind_are_reported_and_the_rest_counted(tmp_path: Path, lines: Lines) -> None:
    faults = reading(tmp_path, [*lines, *[b"rubbish\n"] * 1000]).faults
    assert len(faults) == 21
    assert "980 times more" in faults[-1].what
