"""Operators watch workflows in the Temporal UI, and read payloads only after they signed in to the codec server."""

import base64
import json
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
from playwright.sync_api import expect

from config.secrets import CODEC_TOKEN
from core import names as ids
from core.tenants.provisioning import TITLES, Step, steps_of
from tests.e2e.dashboard.harness.temporal_ui import (
    apply,
    codec_address,
    fill_codec_settings,
    open_provisioning,
    sign_in_to_codec,
    ui_address,
)
from tests.e2e.stack import Stack

_WARNING = "Codec Server could not connect"


@pytest.fixture(scope="module")
def announced(stack, tenant) -> str:
    stack.wait_announced(tenant)
    return tenant


def get(stack: Stack, path: str) -> httpx2.Response:
    return httpx2.get(f"{ui_address(stack)}{path}", timeout=10)


def decode(stack: Stack, payloads: list[dict[str, Any]], token: str | None) -> httpx2.Response:
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    return httpx2.post(f"{codec_address(stack)}/decode", json={"payloads": payloads}, headers=headers, timeout=10)


def summaries(stack: Stack, tenant_id: str) -> list[dict[str, Any]]:
    """Return the summary payloads of the tenant's provisioning as the Temporal UI receives them."""
    workflow_id = quote(ids.provision_workflow(tenant_id), safe="")
    answer = get(stack, f"/api/v1/namespaces/default/workflows/{workflow_id}/history")
    assert answer.status_code == 200, answer.text
    events = answer.json()["history"]["events"]
    return [event["userMetadata"]["summary"] for event in events if "summary" in event.get("userMetadata", {})]


def test_the_ui_responds_and_has_the_address_of_the_codec_server(stack, announced):
    assert "text/html" in get(stack, "/").headers["content-type"]
    codec = get(stack, "/api/v1/settings").json()["Codec"]
    assert codec["Endpoint"] == codec_address(stack)
    found = get(stack, "/api/v1/namespaces/default/workflows?query=" + quote(f"TenantId='{announced}'")).json()
    assert {ids.tenant_workflow(announced), ids.provision_workflow(announced)} <= {
        run["execution"]["workflowId"] for run in found["executions"]
    }


def test_steps_are_readable_with_the_token_of_the_codec_server_only(stack, announced):
    payloads = summaries(stack, announced)
    answer = decode(stack, payloads, stack.secret(CODEC_TOKEN))
    assert answer.status_code == 200
    shown = {json.loads(base64.b64decode(payload["data"])) for payload in answer.json()["payloads"]}
    assert {TITLES[step] for step in steps_of(announced)} <= shown
    for payload in payloads:
        assert not any(title.encode() in base64.b64decode(payload["data"]) for title in TITLES.values())
    for token in (None, "wrong"):
        assert decode(stack, payloads, token).status_code == 403


def test_an_operator_who_follows_the_runbook_reads_payloads_in_the_browser(stack, announced, visitor):
    page = visitor(ui_address(stack), codec_address(stack)).page
    warning, payload = page.locator("#content").get_by_text(_WARNING), page.get_by_text(f'"{announced}"')
    open_provisioning(page, stack, announced)
    expect(warning).to_be_visible()
    sign_in_to_codec(page, stack)
    open_provisioning(page, stack, announced)
    expect(warning).to_be_visible()  # the UI of the development server sends no credentials
    apply(fill_codec_settings(page, stack))
    page.reload()
    expect(payload).to_be_visible()
    expect(page.get_by_text(TITLES[Step.CREATE_KEYS])).to_be_visible()
    expect(warning).to_be_hidden()


def test_the_setting_alone_shows_nothing_without_the_sign_in(stack, announced, visitor):
    page = visitor(ui_address(stack), codec_address(stack)).page
    warning = page.locator("#content").get_by_text(_WARNING)
    open_provisioning(page, stack, announced)
    apply(fill_codec_settings(page, stack))
    page.reload()
    expect(warning).to_be_visible()
    expect(page.get_by_text(f'"{announced}"')).to_be_hidden()
