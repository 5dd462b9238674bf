"""Take screenshots of the dashboard, light, dark and on a phone, into docs/screenshots (`make screenshots`).

The tool starts a separate installation on free ports, enables tenants, connects services and generates load. Pages are
never edited. States that no installation reaches within a minute (weeks of use, a failure) are written through the
product's own interfaces. Pages are taken in each appearance, dialogs and special situations in the first one. Pictures
of a former run that this one did not take are deleted.

It also renders the first pages of a sample compliance report into docs.
"""

import asyncio
import io
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, Page, ViewportSize, expect

from compliance.reports.render.pdf import pictures
from config.secrets import Role
from core import names as ids
from core.keys.root_keys import RootKeyMode
from core.services import CryptoOperation
from core.tenants.approvals import Action
from core.tenants.lifecycle import Transition
from core.tenants.policy import TenantPolicy
from core.tenants.provisioning import Step
from core.usage import BOUNDS, BUCKETS, Latency, bucket
from crypto_service.kmip.codec.enums import Operation
from crypto_service.kmip.codec.fields import text
from crypto_service.kmip.codec.tags import Tag
from dashboard import router as navigation
from database.services.agents import ProtectionUseRow
from database.usage import UsesRow
from openkcm.contract.protected_fields import Mode, ProtectedField, Store
from tests.compliance.reports.sample import a_busy_report, a_document
from tests.concurrency import wait_until
from tests.crypto_service.kmip.messages import batch_item
from tests.crypto_service.kmip.scene import creation
from tests.e2e import connected
from tests.e2e.clients import Program, data_key
from tests.e2e.connected import Service
from tests.e2e.dashboard.harness import browser, temporal_ui
from tests.e2e.dashboard.harness.browser import Visitor, drawn
from tests.e2e.dashboard.harness.dashboard_pages import ADA, KAI, OLGA, fill_connect
from tests.e2e.dashboard.harness.root_key_pages import (
    ask_for,
    close,
    confirm,
    finish,
    labelled,
    open_change,
    open_dialog,
    press,
)
from tests.e2e.dashboard.harness.sign_ons import sign_in
from tests.e2e.kmip_wire import ask
from tests.e2e.outages import hanging
from tests.e2e.root_keys.holders import Holder, Holders
from tests.e2e.stack import ACME, Stack, enabling
from tests.e2e.wires import post

_DOCS = Path(__file__).parents[1] / "docs"
FOLDER = _DOCS / "screenshots"
_REPORT_PAGES = ("report-cover", "report-summary")
_REPORT_DPI = 80
_WIDE, _PHONE = {"width": 1280, "height": 720}, {"width": 390, "height": 844}
_TEMPORAL_UI = ViewportSize(width=1280, height=960)
_TALLEST, _TALLEST_DIALOG = 1500, 2300
_FETCHES = 40
_PAST_DAYS = 38
_SATURDAY = 5
_FROM_MEMORY = 0.985
_CALM_MS = 1500
"""Time until charts stop moving."""
_AROUND_DIALOG = 96
_MAIN, _DIALOG = "[data-testid=stMainBlockContainer]", "[role=dialog]"

_SERVICES = (
    ("customer-records", "mongodb"),
    ("orders", "mongodb"),
    ("ledger", "postgresql"),
    ("payments", "microservice"),
)
_FIELDS = {
    "customer-records": (
        ProtectedField(Store.MONGODB, "crm.customers", "email", Mode.DETERMINISTIC),
        ProtectedField(Store.MONGODB, "crm.customers", "address.street", Mode.RANDOMISED),
    ),
    "ledger": (ProtectedField(Store.POSTGRESQL, "public.payments", "iban", Mode.RANDOMISED),),
}
_OPERATIONS = {
    "mongodb": (CryptoOperation.GET, CryptoOperation.LOCATE),
    "postgresql": (CryptoOperation.GET,),
    "microservice": (CryptoOperation.ENCRYPT, CryptoOperation.DECRYPT, CryptoOperation.DATA_KEY),
}
_CUSTOMERS = (
    ("nordwind-10021", "Nordwind Logistik GmbH"),
    ("contoso-10044", "Contoso Retail"),
    ("fabrikam-10052", "Fabrikam Health AG"),
    ("tailspin-10063", "Tailspin Toys Ltd"),
    ("litware-10078", "Litware Insurance SE"),
    ("adatum-10090", "Adatum Bank"),
)
_AWS_PRINCIPAL = "arn:aws:iam::999988887777:role/openkcm-platform"
_FAILED = ("proseware-10115", "Proseware Media")


@dataclass(frozen=True)
class Appearance:
    """Settings of a browser window. `grows` adapts its height to the content."""

    name: str
    grows: bool
    options: dict[str, Any] = field(default_factory=dict)


APPEARANCES = (
    Appearance("light", grows=True, options={"color_scheme": "light", "viewport": _WIDE}),
    Appearance("dark", grows=True, options={"color_scheme": "dark", "viewport": _WIDE}),
    Appearance("phone", grows=False, options={"color_scheme": "light", "viewport": _PHONE}),
)


LIGHT = APPEARANCES[0]


def main() -> int:
    """Take all screenshots; return the exit status."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    began = time.time()
    render_report()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        with Holders(place / "holders").until_closed() as holders, installation(place, holders) as stack:
            populate(stack, place)
            with browser.chromium() as chromium:
                for appearance in APPEARANCES:
                    _take_all(stack, chromium, appearance)
                _take_dialogs(stack, chromium)
                _take_other_tenants(stack, chromium, place)
                _take_temporal_ui(stack, chromium)
                _take_root_keys(stack, chromium, holders.hold("aws-kms"), place)
    for picture in sorted(FOLDER.glob("*.png")):
        if picture.stat().st_mtime < began:
            picture.unlink()
        else:
            sys.stdout.write(f"{picture.stat().st_size / 1024:6.0f} KB  {picture.relative_to(_DOCS.parent)}\n")
    return 0


def render_report() -> None:
    """Render the first pages of a sample compliance report."""
    report, _ = a_busy_report()
    pages = pictures(report, a_document(report).encode(), _REPORT_DPI)
    for name, page in zip(_REPORT_PAGES, pages, strict=False):
        with Image.open(io.BytesIO(page)) as picture:
            _save(picture, _DOCS / f"{name}.png")


@contextmanager
def installation(place: Path, holders: Holders) -> Iterator[Stack]:
    """Run an installation on free ports for the duration of the block."""
    with closing(Stack(place, aws_principal=_AWS_PRINCIPAL, **holders.settings())) as stack:
        try:
            stack.command("up")
            yield stack
        finally:
            stack.command("down")


def populate(stack: Stack, place: Path) -> None:
    """Enable tenants, and generate load by the services of ACME."""
    for tenant_id, organization in ((ACME, "ACME Corporation"), *_CUSTOMERS):
        stack.enable(tenant_id, organization)
    _create_failed(stack, *_FAILED)
    for name, kind in _SERVICES:
        _work(connected.connect(stack, ACME, kind, name, place / name), kind)
    _write_past(stack)
    _protect(stack)
    asyncio.run(_sign_streams(stack))
    for days in (30, 365):
        since = datetime.now(UTC).date() - timedelta(days=days)
        stack.command("report", "create", ACME, "--since", f"{since}", "--out", str(place / f"report-{days}.pdf"))


def _write_past(stack: Stack) -> None:
    """Write some weeks of use with busy working hours and a few rejections."""
    rng = random.Random("the past")  # noqa: S311 - the same screenshots each time
    this_hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    hours = [this_hour - timedelta(hours=back) for back in range(1, _PAST_DAYS * 24)]
    with stack.database(Role.CRYPTO).tenant_tx(ACME) as tx:
        for service, kind in _SERVICES:
            tx.usage.add([row for hour in hours for row in _hour(hour, service, kind, rng)], f"past-{service}")


def _protect(stack: Stack) -> None:
    """Protect some fields, and write some weeks of usage reports for them."""
    rng = random.Random("the fields")  # noqa: S311 - the same screenshots each time
    today = datetime.now(UTC).date()
    listed = [(service, field) for service, fields in _FIELDS.items() for field in fields]
    with stack.database(Role.DASHBOARD).tenant_tx(ACME) as tx:
        for service, field in listed:
            tx.protection.protect(service, field, "ada@acme.example")
    with stack.database(Role.CRYPTO).tenant_tx(ACME) as tx:
        for back in range(_PAST_DAYS):
            day = today - timedelta(days=back)
            busy = 1 if day.weekday() < _SATURDAY else 8
            tx.agents.note(
                [], [_use(day, service, field, rng.randrange(900, 1400) // busy) for service, field in listed]
            )


def _use(day: date, service: str, field: ProtectedField, operations: int) -> ProtectionUseRow:
    requests = operations // 2
    return ProtectionUseRow(
        day, service, field.name, operations, operations * 48, operations * 9, requests, requests * 620
    )


def _hour(hour: datetime, service: str, kind: str, rng: random.Random) -> Iterator[UsesRow]:
    working = hour.weekday() < _SATURDAY and 7 <= hour.hour <= 18
    operations = _OPERATIONS[kind]
    for share, operation in enumerate(operations, start=1):
        count = rng.randrange(900, 1400) // share // (1 if working else 12)
        yield UsesRow(hour, service, operation, "", count, count * 512, _times(count, rng))
    if working and not rng.randrange(40):
        yield UsesRow(hour, service, operations[0], "object_not_found", rng.randrange(1, 4), 0)


def _times(number: int, rng: random.Random) -> Latency:
    """Return latencies of responses from memory, with occasional unwrapping of a key."""
    counts = [0] * BUCKETS
    for _ in range(number):
        counts[bucket(int(rng.lognormvariate(5.0, 0.6) if rng.random() < _FROM_MEMORY else 25_000))] += 1
    return Latency(tuple(counts), sum(count * BOUNDS[place] for place, count in enumerate(counts) if count))


def _work(service: Service, kind: str) -> None:
    """Generate load by a service's kind: databases fetch keys over KMIP, microservices use HTTPS."""
    if kind != "microservice":
        with service.open_kmip() as kmip:
            created = ask(kmip, batch_item(*creation())).first(Tag.UNIQUE_IDENTIFIER)
            if created is None:
                raise RuntimeError(f"{service.name} received no key")
            for operation in (Operation.ACTIVATE, *[Operation.GET] * _FETCHES):
                ask(kmip, batch_item(operation, text(Tag.UNIQUE_IDENTIFIER, str(created.value))))
        return
    program = Program(service)
    for number in range(_FETCHES):
        program.https(data_key(f"{service.name}/{number}"))
        for _ in range(3):
            program.https(post("/v1/encrypt", {"resource": f"{service.name}/{number}", "plaintext": "MTIzNA=="}))
    program.hang_up()


async def _sign_streams(stack: Stack) -> None:
    """Sign the checkpoints of the audit streams immediately, instead of within a minute."""
    client = await stack.temporal()
    await client.get_schedule_handle("audit-checkpoints").trigger()


def _begin(stack: Stack, tenant_id: str, organization: str) -> str:
    with stack.database(Role.MARKETPLACE).tenant_tx(tenant_id) as tx:
        tx.tenants.request(enabling(tenant_id, organization))
    with stack.database().tenant_tx(tenant_id) as tx:
        tx.tenants.move(Transition.PROVISION)
        tx.steps.plan(ids.provision_workflow(tenant_id), list(Step))
        tx.steps.finish(ids.provision_workflow(tenant_id), next(iter(Step)), datetime.now(UTC) - timedelta(seconds=1))
    return ids.provision_workflow(tenant_id)


def _create_failed(stack: Stack, tenant_id: str, organization: str) -> None:
    """Create a tenant in the state of one whose CA was rejected."""
    operation = _begin(stack, tenant_id, organization)
    with stack.database().tenant_tx(tenant_id) as tx:
        tx.steps.finish(operation, Step.CREATE_KEYS, datetime.now(UTC) - timedelta(seconds=1))
        tx.steps.fail(operation, Step.CREATE_AUTHORITY, "vault_refused")
        tx.tenants.move(Transition.FAIL)


@contextmanager
def _window(stack: Stack, chromium: Browser, appearance: Appearance = LIGHT) -> Iterator[Visitor]:
    with closing(Visitor(chromium, stack.settings.dashboard_url, **appearance.options)) as window:
        yield window


def _take_all(stack: Stack, chromium: Browser, appearance: Appearance) -> None:
    """Take every page."""
    with _window(stack, chromium, appearance) as window:
        _take(window.open("/marketplace/"), appearance, "marketplace")
        _take(window.open(f"/tenant/{ACME}/"), appearance, "sign-in")
        window.sign_in(ADA, f"/tenant/{ACME}/")
        for entry in navigation.TENANT:
            _take(window.open(f"/tenant/{ACME}/{entry.path}"), appearance, entry.title.lower())
        window.open(f"/tenant/{ACME}/services")
        fill_connect(window.page, "invoices")
        _take(window.page, appearance, "connect", grows=False)
    with _window(stack, chromium, appearance) as window:
        _take(window.sign_in(OLGA), appearance, "operations")


def _take_dialogs(stack: Stack, chromium: Browser) -> None:
    """Take the details and dialogs of ACME, and the page of a tenant that an operator opens."""
    with _window(stack, chromium) as window:
        page = window.sign_in(ADA, f"/tenant/{ACME}/")
        window.open(f"/tenant/{ACME}/services?service=ledger")
        _take(page, LIGHT, "service")
        open_dialog(page, "services-fields")
        _take(page, LIGHT, "protected-fields", shows=_DIALOG)
        window.open(f"/tenant/{ACME}/settings")
        dialog = open_dialog(page, "notifications-add")
        labelled(dialog, "Label").fill("Security team")
        labelled(dialog, "URL").fill("https://hooks.acme.example/openkcm")
        press(dialog, "Add target", "it is shown only once")
        close(dialog)
        _settle(page)
        page.get_by_role("heading", name="Notifications").evaluate("heading => heading.scrollIntoView()")
        _take(page, LIGHT, "notifications", grows=False)
        window.open(f"/tenant/{ACME}/")
        with hanging(stack, "openbao"):
            expect(page.get_by_text("Key server: does not respond").first).to_be_visible()
            _take(page, LIGHT, "outage")
    with _window(stack, chromium) as window:
        window.sign_in(OLGA)
        _take(window.open(f"/operations/?id={_FAILED[0]}"), LIGHT, "operations-tenant")


def _take_other_tenants(stack: Stack, chromium: Browser, place: Path) -> None:
    """Take a request that waits for approval, a lock that every process applies, and a tenant that is offboarded."""
    waiting, locked, leaving = (tenant_id for tenant_id, _ in _CUSTOMERS[1:4])
    with stack.database().tenant_tx(waiting) as tx:
        tx.policy.set(TenantPolicy(four_eyes=frozenset({Action.LOCK})))
    with _window(stack, chromium) as window:
        dialog = ask_for(sign_in(window, stack, waiting, KAI, page="keys"), "lock")
        labelled(dialog, "Reason").fill("Suspicious reads of customer records at 17:14")
        confirm(dialog, waiting)
        finish(dialog, "Request approval", "Approval requested")
    with _window(stack, chromium) as window:
        page = sign_in(window, stack, waiting, page="approvals")
        _take(page, LIGHT, "approvals-pending")
        page.get_by_role("button", name="Approve lock").click()
        expect(page.get_by_role("dialog").get_by_text("Stops immediately")).to_be_visible()
        _take(page, LIGHT, "approve", shows=_DIALOG)
    for name in ("patients", "billing"):
        _work(connected.connect(stack, locked, "microservice", name, place / f"locked-{name}"), "microservice")
    stack.command("tenant", "lock", locked, "--confirm", locked)
    stack.command("tenant", "offboard", leaving, "--confirm", leaving)
    with _window(stack, chromium) as window:
        page = sign_in(window, stack, locked, page="services")
        expect(page.get_by_text("Every process rejects requests")).to_be_visible()
        _take(page, LIGHT, "lock-progress")
    with _window(stack, chromium) as window:
        _take(sign_in(window, stack, leaving), LIGHT, "offboarding")


def _take_temporal_ui(stack: Stack, chromium: Browser) -> None:
    """Take the pictures of the runbook: the settings of the browser, and a workflow with readable payloads."""
    with closing(chromium.new_context(viewport=_TEMPORAL_UI)) as context:
        page = context.new_page()
        temporal_ui.sign_in_to_codec(page, stack)
        temporal_ui.open_provisioning(page, stack, ACME)
        dialog = temporal_ui.fill_codec_settings(page, stack)
        page.wait_for_timeout(_CALM_MS)
        _save_page(page, _DOCS / "temporal-ui-codec.png")
        temporal_ui.apply(dialog)
        page.reload()
        expect(page.get_by_text(f'"{ACME}"')).to_be_visible()
        page.wait_for_timeout(_CALM_MS)
        _save_page(page, _DOCS / "temporal-ui.png")


def _take_root_keys(stack: Stack, chromium: Browser, holder: Holder, place: Path) -> None:
    """Take the pages of a customer who holds the root key, before and after its revocation."""
    stack.command("root-key", "change", ACME, *holder.words(place))
    with _window(stack, chromium) as window:
        page = window.sign_in(ADA, f"/tenant/{ACME}/keys")
        window.open(f"/tenant/{ACME}/keys")
        _take(page, LIGHT, "root-key")
        dialog = open_change(page, RootKeyMode.AWS_KMS)
        labelled(dialog, "Key ARN").fill(holder.place.name)
        dialog.get_by_text("Prepare your provider").click()
        _take(page, LIGHT, "root-key-change", shows=_DIALOG)
        close(dialog, "Cancel")
        dialog = open_dialog(page, "rotation-compromised")
        expect(dialog.get_by_label(f"Type {ACME} to confirm")).to_be_visible()
        _take(page, LIGHT, "compromised", shows=_DIALOG)
        close(dialog, "Cancel")
        ask_for(page, "lock")
        _take(page, LIGHT, "lock", shows=_DIALOG)
    holder.take_away()
    wait_until(lambda: stack.command("tenant", "show", ACME)["state"] == "locked", lambda: "it is not locked")
    with _window(stack, chromium) as window:
        window.sign_in(ADA, f"/tenant/{ACME}/keys")
        _take(window.open(f"/tenant/{ACME}/keys"), LIGHT, "locked")


def _take(page: Page, appearance: Appearance, name: str, *, grows: bool = True, shows: str = _MAIN) -> None:
    """Take a screenshot after the page has loaded."""
    _settle(page)
    if appearance.grows and grows:
        height = page.evaluate("shows => document.querySelector(shows).scrollHeight", shows)
        tallest, around = (_TALLEST, 0) if shows == _MAIN else (_TALLEST_DIALOG, _AROUND_DIALOG)
        page.set_viewport_size({"width": _WIDE["width"], "height": max(_WIDE["height"], min(height + around, tallest))})
        _settle(page)
    _save_page(page, FOLDER / f"{name}-{appearance.name}.png")
    if appearance.grows and grows:
        page.set_viewport_size({"width": _WIDE["width"], "height": _WIDE["height"]})


def _save_page(page: Page, file: Path) -> None:
    page.screenshot(path=file)
    with Image.open(file) as picture:
        _save(picture, file)


def _save(picture: Image.Image, file: Path) -> None:
    """Write a picture with few colours, which makes the file small."""
    few = picture.convert("RGB").quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    few.save(file, optimize=True)


def _settle(page: Page) -> None:
    drawn(page)
    expect(page.get_by_test_id("stSkeleton")).to_have_count(0)
    page.evaluate("document.fonts.ready")
    page.wait_for_timeout(_CALM_MS)


if __name__ == "__main__":
    sys.exit(main())
