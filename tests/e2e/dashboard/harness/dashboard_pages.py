"""Actions of users on the pages of the dashboard, by the names that the pages show."""

import io
import zipfile
from pathlib import Path

from playwright.sync_api import Locator, Page, expect

from tests.e2e.dashboard.harness import browser
from tests.e2e.dashboard.harness.browser import drawn, title
from tests.e2e.dashboard.harness.root_key_pages import close, confirm, finish, open_dialog, press

ADA, KAI, UMA, BEA, OLGA = "Ada Admin", "Kai Keys", "Uma Auditor", "Bea Admin", "Olga Operator"


def go_to(page: Page, name: str, heading: str = "") -> None:
    """Open a page by the navigation; its heading is its name if none is given."""
    page.get_by_test_id("stSidebarNav").get_by_role("link", name=name).click()
    # Until the new heading is there, `drawn` can mean the page that is being replaced.
    expect(title(page)).to_have_text(heading or name)
    drawn(page)


def fill_connect(page: Page, name: str, kind: str = "Microservice") -> Locator:
    """Open the dialog and fill it in for a service whose key is made there, the default; return the dialog."""
    dialog = page.get_by_role("dialog")
    browser.press(page.get_by_role("button", name="Connect service"), dialog)
    if kind != "Microservice":
        dialog.get_by_text(kind, exact=True).click()
    dialog.get_by_label("Name", exact=True).fill(name)
    # What moved is gone from its old place.
    expect(dialog.get_by_role("button", name="Connect", exact=True)).to_have_count(1)
    return dialog


def connect(page: Page, name: str) -> bytes:
    """Connect a service by the dialog and return the downloaded file."""
    dialog = fill_connect(page, name)
    press(dialog, "Connect", f"{name} is connected")
    with page.expect_download() as download:
        dialog.get_by_role("button", name="Download files (ZIP)").click()
    delivered = Path(download.value.path()).read_bytes()
    close(dialog)
    return delivered


def select_service(page: Page, name: str) -> None:
    """Show the page Services with a service selected, by its address."""
    page.goto(f"{page.url.partition('?')[0]}?service={name}")
    drawn(page)
    expect(page.get_by_role("heading", name=name, exact=True)).to_be_visible()


def make_token(page: Page, name: str, kind: str = "PostgreSQL instance") -> tuple[str, str]:
    """Make a join token through the dialog; return it and the command beside it."""
    dialog = page.get_by_role("dialog")
    browser.press(page.get_by_role("button", name="Enrol an agent"), dialog)
    dialog.get_by_text(kind, exact=True).click()
    dialog.get_by_label("Name", exact=True).fill(name)
    dialog.get_by_role("button", name="Create token").click()
    expect(dialog.get_by_text("Copy the token now")).to_be_visible()
    shown = dialog.get_by_test_id("stCode").locator("code")
    expect(shown).to_have_count(2)
    token, command = shown.all_inner_texts()
    close(dialog)
    expect(page.get_by_text(token.strip())).to_have_count(0)
    return token.strip(), command.strip()


def unpack(delivered: bytes, folder: Path, name: str) -> Path:
    """Extract the downloaded files into the folder that the dialog names."""
    zipfile.ZipFile(io.BytesIO(delivered)).extractall(folder)
    return folder / name


def disconnect(page: Page, name: str) -> None:
    """Select a service, disconnect it and confirm with its name."""
    select_service(page, name)
    dialog = open_dialog(page, "services-disconnect")
    confirm(dialog, name)
    finish(dialog, "Disconnect", f"{name} is disconnected")
