"""The documents in place of a page: status, words and links; nothing of the requested page and no command."""

import re

import pytest

from core.errors.compliance import CertificateMissing, ReportUnknown
from core.errors.platform import DatabaseUnavailable, SchemaOutdated
from core.errors.services import InvalidRequest
from core.errors.tenants import AccessDenied, PageNotFound, PermissionDenied, SessionEnded
from dashboard.auth.error_documents import response
from openkcm.errors import OpenKcmError

DOWN = DatabaseUnavailable("connection to 192.0.2.9 refused", "run openkcmctl doctor")


@pytest.mark.parametrize(
    ("refused", "status", "title", "links"),
    [
        (SessionEnded(), 403, "Your session has ended", ["Sign in again"]),
        (AccessDenied(), 403, "Access denied", ["Go to your page", "Sign in with another account"]),
        (PageNotFound(), 404, "Page not found", ["Go to your page"]),
        (CertificateMissing(), 404, "File not found", ["Go to your page", "Retry"]),
        (ReportUnknown(), 404, "File not found", ["Go to your page", "Retry"]),
        (InvalidRequest("the period is invalid", "choose days"), 400, "Invalid request", ["Go to your page"]),
        (DOWN, 503, "Page unavailable", ["Retry"]),
        (SchemaOutdated(), 503, "Page unavailable", ["Retry"]),
        (PermissionDenied(), 403, "Page unavailable", ["Retry"]),
    ],
)
def test_a_refusal_has_its_status_and_says_what_to_do_next(
    refused: OpenKcmError, status: int, title: str, links: list[str]
) -> None:
    answer = response(refused)
    document = bytes(answer.body).decode()
    assert answer.status_code == status
    assert f"<title>{title} · OpenKCM</title>" in document
    assert f"<h1>{title}</h1>" in document
    assert re.findall("<a [^>]*>([^<]*)</a>", document) == links
    assert "openkcmctl" not in document
    assert "192.0.2.9" not in document


def test_an_operator_reads_the_cause_of_an_outage() -> None:
    document = bytes(response(DOWN, operator=True).body).decode()
    assert "Connection to 192.0.2.9 refused." in document
    assert "Run openkcmctl doctor." in document


def test_only_an_outage_is_retried_automatically() -> None:
    assert "setInterval" in bytes(response(DOWN).body).decode()
    assert response(DOWN).headers["retry-after"] == "5"
    for refused in (SessionEnded(), AccessDenied(), PageNotFound()):
        assert "setInterval" not in bytes(response(refused).body).decode()
        assert "retry-after" not in response(refused).headers


def test_a_refusal_is_escaped() -> None:
    document = bytes(response(AccessDenied("<script>x</script>", "<b>")).body).decode()
    assert "&lt;script&gt;x&lt;/script&gt;." in document
    assert "<b>" not in document
