"""The Temporal UI of operators in a browser, and the steps of docs/runbook.md that show payloads in it."""

from urllib.parse import quote

from playwright.sync_api import Locator, Page, expect

from config.secrets import CODEC_TOKEN
from core import names as ids
from tests.e2e.stack import Stack


def ui_address(stack: Stack) -> str:
    return f"http://127.0.0.1:{stack.settings.temporal_ui_port}"


def codec_address(stack: Stack) -> str:
    return f"http://127.0.0.1:{stack.settings.codec_port}"


def open_provisioning(page: Page, stack: Stack, tenant_id: str) -> None:
    """Open the workflow that provisioned a tenant."""
    workflow_id = ids.provision_workflow(tenant_id)
    page.goto(f"{ui_address(stack)}/namespaces/default/workflows/{quote(workflow_id, safe='')}")
    expect(page.get_by_role("heading", name=workflow_id)).to_be_visible()


def sign_in_to_codec(page: Page, stack: Stack) -> None:
    """Follow step 1: sign in on the page of the codec server."""
    page.goto(codec_address(stack))
    page.get_by_label("Codec token").fill(stack.secret(CODEC_TOKEN))
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_text("You are signed in")).to_be_visible()


def fill_codec_settings(page: Page, stack: Stack) -> Locator:
    """Follow steps 2 and 3 up to the button Apply, and return the dialog."""
    page.get_by_test_id("data-encoder-status-error").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("Use my browser setting").click()
    dialog.get_by_role("textbox").fill(codec_address(stack))
    dialog.get_by_text("Include cross-origin credentials").click()
    return dialog


def apply(dialog: Locator) -> None:
    """Follow step 3 to its end; the page shows payloads after it is loaded again."""
    dialog.get_by_role("button", name="Apply").click()
    expect(dialog).to_be_hidden()
