"""`openkcmctl audit reconcile` as people and scripts use it: what it is told, what it says, and how it ends."""

import base64
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cli.__main__ import main
from core import names as ids
from core.keys.encryption_context import EncryptionContext, Purpose
from database.connection.database import Database
from openkcm.contract.audit_events import AuditName
from tests.core.proving import TENANT
from tests.database.builders import an_audit_event

L2 = ids.l2_key(TENANT)


def lines_of(number: int, at: datetime, path: str, data: dict[str, Any]) -> bytes:
    """Return request and response as the server writes them for the tenant's own token."""
    auth = {"display_name": f"jwt-{TENANT}", "policies": ["openkcm-tenant"], "metadata": {"role": "tenant"}}
    request = {"id": f"request-{number}", "operation": "update", "path": path, "data": data}
    both = [
        {"time": at.isoformat(), "type": kind, "auth": auth, "request": request} for kind in ("request", "response")
    ]
    return b"".join(json.dumps(one).encode() + b"\n" for one in both)


@pytest.fixture
def log(stand: Path, worker: Database) -> Path:
    """A log in which the tenant's service key was opened twice this minute, and a stream that knows of it."""
    context = EncryptionContext(TENANT, L2, "orders", Purpose.SERVICE_KEY, "1").encode()
    begun = datetime.now(UTC) - timedelta(minutes=2)
    path = stand / "audit.log"
    data = {"context": base64.b64encode(context).decode(), "ciphertext": "hmac-sha256:00"}
    moments = [begun, begun + timedelta(minutes=1), begun + timedelta(minutes=1, seconds=1)]
    path.write_bytes(
        lines_of(0, moments[0], "auth/jwt/login", {})
        + b"".join(lines_of(number, moments[number], f"transit/decrypt/{L2}", data) for number in (1, 2))
    )
    opened = [
        an_audit_event(
            f"open-{number}",
            name=AuditName.SERVICE_KEY_OPENED,
            subject="orders",
            details={"version": "1", "at": moments[number].isoformat()},
        )
        for number in (1, 2)
    ]
    with worker.tenant_tx(TENANT) as tx:
        tx.audit.append_all(opened)
    return path


def test_two_books_that_agree_are_clean(log: Path, run: Any) -> None:
    status, document = run("reconcile", TENANT, "--vault-log", str(log))
    assert (status, document["clean"], document["differences"]) == (0, True, 0)
    assert document["log"]["lines"] == 6
    (tenant,) = document["tenants"]
    assert tenant == {"tenant_id": TENANT, "requests": 2, "records": 2 + 21, "differences": []}


def test_what_one_of_them_lacks_is_said_and_the_status_is_one(log: Path, run: Any) -> None:
    whole = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(whole[:-2]))
    status, document = run("reconcile", TENANT, "--vault-log", str(log))
    assert (status, document["clean"], document["error"]["code"]) == (1, False, "audit_differs")
    ((one,),) = [tenant["differences"] for tenant in document["tenants"]]
    assert (one["kind"], one["lacks"], one["severity"]) == ("missing-use", "key server", "alarm")
    log.write_bytes(b"".join([*whole, *whole[-2:]]).replace(b"request-2", b"request-3", 2))
    status, document = run("reconcile", "--all", "--vault-log", str(log))
    kinds = {one["kind"] for tenant in document["tenants"] for one in tenant["differences"]}
    assert (status, kinds) == (1, {"unrecorded-use"})


def test_people_read_a_line_for_each_difference_and_what_was_held(
    log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:-2]))
    assert main(["audit", "reconcile", TENANT, "--vault-log", str(log)]) == 1
    said = capsys.readouterr()
    assert f"alarm missing-use: {TENANT}: record" in said.out
    assert "1 requests on keys and 23 records of 1 tenants held against each other" in said.out
    assert "audit_differs" in said.err


@pytest.mark.usefixtures("stand")
def test_a_log_that_is_not_there_or_not_known_is_refused(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("reconcile", TENANT)[1]["error"]["code"] == "file_refused"
    status, document = run("reconcile", TENANT, "--vault-log", str(tmp_path / "no.log"))
    assert (status, document["error"]["code"]) == (3, "file_refused")
    monkeypatch.setenv("OPENKCM_VAULT_ADDRESS", "https://vault.example")
    assert run("reconcile", TENANT)[1]["error"]["code"] == "vault_log_unknown"


def test_a_tenant_or_all_of_them_and_not_both(log: Path, run: Any) -> None:
    for words in ((), (TENANT, "--all")):
        status, document = run("reconcile", *words, "--vault-log", str(log))
        assert (status, document["error"]["code"]) == (2, "usage")
    assert run("reconcile", "nobody-corp", "--vault-log", str(log))[1]["error"]["code"] == "tenant_unknown"


def test_a_day_is_judged_by_itself(log: Path, run: Any) -> None:
    later = (datetime.now(UTC) - timedelta(seconds=30)).strftime("%Y-%m-%dT%H:%M:%S")
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:-2]))
    assert run("reconcile", TENANT, "--vault-log", str(log), "--since", later)[0] == 0
