"""`openkcmctl audit reconcile` for operators and scripts: options, output and exit statuses."""

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
    """Return request and response as the server logs them for the tenant's token."""
    auth = {"display_name": f"jwt-{TENANT}", "policies": ["openkcm-tenant"], "metadata": {"role": "tenant"}}
    request = {"id": f"request-{number}", "operation": "update", "path": path, "data": data}
    both = [
        {"time": at.isoformat(), "type": kind, "auth": auth, "request": request} for kind in ("request", "response")
    ]
    return b"".join(json.dumps(one).encode() + b"\n" for one in both)


@pytest.fixture
def log(stand: Path, worker: Database) -> Path:
    """A log with two decryptions of the tenant's service key, and a stream with their records."""
    context = EncryptionContext(TENANT, L2, "orders", Purpose.SERVICE_KEY, "1").encode()
    begun = datetime.now(UTC) - timedelta(minutes=2)
    path = stand / "audit.log"
    data = {"context": base64.b64encode(context).decode(), "ciphertext": "hmac-sha256:00"}
    moments = [begun, begun + timedelta(minutes=1), begun + timedelta(minutes=1, seconds=1)]
    path.write_bytes(
        lines_of(0, moments[0], "auth/jwt/login", {})
        + b"".join(lines_of(number, moments[number], f"transit/decrypt/{L2}", data) for number in (1, 2))
    )
    events = [
        an_audit_event(
            f"open-{number}",
            name=AuditName.SERVICE_KEY_OPENED,
            subject="orders",
            details={"version": "1", "at": moments[number].isoformat()},
        )
        for number in (1, 2)
    ]
    with worker.tenant_tx(TENANT) as tx:
        tx.audit.append_all(events)
    return path


def test_a_log_that_matches_the_stream_has_no_discrepancies(log: Path, run: Any) -> None:
    status, document = run("reconcile", TENANT, "--vault-log", str(log))
    assert (status, document["clean"], document["differences"]) == (0, True, 0)
    assert document["log"]["lines"] == 6
    (tenant,) = document["tenants"]
    assert tenant == {"tenant_id": TENANT, "requests": 2, "records": 2 + 21, "differences": []}


def test_an_event_that_one_side_lacks_is_reported_with_status_1(log: Path, run: Any) -> None:
    whole = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(whole[:-2]))
    status, document = run("reconcile", TENANT, "--vault-log", str(log))
    assert (status, document["clean"], document["error"]["code"]) == (1, False, "audit_discrepancy")
    ((one,),) = [tenant["differences"] for tenant in document["tenants"]]
    assert (one["kind"], one["lacks"], one["severity"]) == ("missing-use", "key server", "alarm")
    log.write_bytes(b"".join([*whole, *whole[-2:]]).replace(b"request-2", b"request-3", 2))
    status, document = run("reconcile", "--all", "--vault-log", str(log))
    kinds = {one["kind"] for tenant in document["tenants"] for one in tenant["differences"]}
    assert (status, kinds) == (1, {"unrecorded-use"})


def test_the_text_output_has_a_line_for_each_discrepancy_and_totals(
    log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:-2]))
    assert main(["audit", "reconcile", TENANT, "--vault-log", str(log)]) == 1
    printed = capsys.readouterr()
    assert f"alarm missing-use: {TENANT}: record" in printed.out
    assert "1 key requests and 23 records of 1 tenants compared" in printed.out
    assert "audit_discrepancy" in printed.err


@pytest.mark.usefixtures("stand")
def test_a_missing_or_unconfigured_log_is_rejected(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("reconcile", TENANT)[1]["error"]["code"] == "file_refused"
    status, document = run("reconcile", TENANT, "--vault-log", str(tmp_path / "no.log"))
    assert (status, document["error"]["code"]) == (3, "file_refused")
    monkeypatch.setenv("OPENKCM_VAULT_ADDRESS", "https://vault.example")
    assert run("reconcile", TENANT)[1]["error"]["code"] == "vault_audit_log_not_configured"


def test_exactly_one_of_tenant_and_all_is_required(log: Path, run: Any) -> None:
    for words in ((), (TENANT, "--all")):
        status, document = run("reconcile", *words, "--vault-log", str(log))
        assert (status, document["error"]["code"]) == (2, "usage")
    assert run("reconcile", "unknown-corp", "--vault-log", str(log))[1]["error"]["code"] == "tenant_unknown"


def test_records_before_since_are_not_compared(log: Path, run: Any) -> None:
    later = (datetime.now(UTC) - timedelta(seconds=30)).strftime("%Y-%m-%dT%H:%M:%S")
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:-2]))
    assert run("reconcile", TENANT, "--vault-log", str(log), "--since", later)[0] == 0
