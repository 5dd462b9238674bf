import socket
import time

import pytest

from core.errors.platform import VaultRefused, VaultUnavailable
from tests.concurrency import at_once
from tests.vault.server import Server
from vault.auth.client import TokenSession, VaultRejected, VaultSession

AUDIT_KEY = "transit/keys/audit-checkpoints"


def test_session_logs_in_on_the_first_call() -> None:
    VaultSession("http://127.0.0.1:1", "worker", "secret")


def test_missing_path_reads_as_none_and_lists_as_empty(admin: TokenSession) -> None:
    assert admin.read("transit/keys/nothing") is None
    assert admin.list("auth/userpass-that-is-not-mounted/users") == []


def test_a_rejection_carries_status_and_reason(admin: TokenSession) -> None:
    with pytest.raises(VaultRejected, match="unknown key type") as rejected:
        admin.write("transit/keys/odd", {"type": "rot13"})
    assert rejected.value.status == 400


def test_session_logs_in_again_after_its_token_was_revoked(server: Server, admin: TokenSession) -> None:
    session = server.session("worker")
    session.read(AUDIT_KEY)
    _revoke_all(admin)
    assert session.read(AUDIT_KEY) is not None


def test_threads_with_an_invalid_token_log_in_once(server: Server, admin: TokenSession) -> None:
    session = server.session("worker")
    session.read(AUDIT_KEY)
    _revoke_all(admin)
    assert None not in at_once(*[lambda: session.read(AUDIT_KEY)] * 8)
    assert len(_accessors(admin)) == 1


def test_a_denied_request_causes_no_login(server: Server, admin: TokenSession) -> None:
    session = server.session("worker")
    session.read(AUDIT_KEY)
    before = _accessors(admin)
    for _ in range(3):
        with pytest.raises(VaultRefused):
            session.read("sys/auth")
    assert _accessors(admin) == before


def test_denials_in_a_row_look_up_the_token_once_a_second(server: Server) -> None:
    responses: list[float] = []
    secret = (server.folder / "worker.secret").read_text(encoding="ascii")
    session = VaultSession(server.url, "worker", secret, on_response=lambda: responses.append(time.monotonic()))

    def denied() -> None:
        with pytest.raises(VaultRefused):
            session.read("sys/auth")

    session.read(AUDIT_KEY)
    responses.clear()
    began = time.monotonic()
    at_once(*[denied] * 8)
    lookups = len(responses) - 8
    assert 1 <= lookups <= 1 + (time.monotonic() - began)
    time.sleep(1.0)
    responses.clear()
    denied()
    assert len(responses) == 2


@pytest.mark.integration
def test_a_server_that_is_down_is_unavailable() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}"
    with pytest.raises(VaultUnavailable):
        VaultSession(url, "worker", "secret").read(AUDIT_KEY)


@pytest.mark.full
def test_a_server_that_never_answers_is_unavailable_after_five_seconds() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        since = time.monotonic()
        with pytest.raises(VaultUnavailable):
            VaultSession(f"http://127.0.0.1:{silent.getsockname()[1]}", "worker", "secret").read(AUDIT_KEY)
    assert 4 < time.monotonic() - since < 60


def test_wrong_secret_id_is_rejected_and_not_disclosed(server: Server) -> None:
    with pytest.raises(VaultRefused) as refused:
        VaultSession(server.url, "worker", "not-to-be-shown").read(AUDIT_KEY)
    chain = repr(refused.value) + repr(refused.value.__cause__)
    assert "not-to-be-shown" not in chain


def _worker_token(admin: TokenSession, accessor: str) -> bool:
    data = admin.write("auth/token/lookup-accessor", {"accessor": accessor})
    return "openkcm-worker" in data["policies"]


def _accessors(admin: TokenSession) -> list[str]:
    """Return the accessors of the worker's valid tokens."""
    return sorted(one for one in admin.list("auth/token/accessors") if _worker_token(admin, one))


def _revoke_all(admin: TokenSession) -> None:
    """Revoke every token of the worker, as an administrator does after an incident."""
    for accessor in _accessors(admin):
        admin.write("auth/token/revoke-accessor", {"accessor": accessor})
