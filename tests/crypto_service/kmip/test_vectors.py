"""The published OASIS cases of KMIP 1.0 to 1.2, all 197."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from crypto_service.kmip.codec.ttlv import Item
from tests.crypto_service.kmip.oasis_xml import Case
from tests.crypto_service.kmip.scene import Base, Scene, connect
from tests.crypto_service.kmip.vectors import DIFFERENCES, REVOKED, Answer, Report, difference, run_all, summary

REPORT = Path(__file__).with_name("oasis") / "report.txt"
Reports = dict[str, tuple[Report, list[str]]]


@pytest.fixture(scope="module")
def reports(base: Base) -> Reports:
    return run(base)


def run(base: Base, chosen: Callable[[Case], bool] = lambda _: True, *, revoked_keys_readable: bool = False) -> Reports:
    scene = Scene(base)
    scene.revoked_keys_readable = revoked_keys_readable

    def open_service(service: str) -> Answer:
        connect(base.worker, scene.tenant, service)
        client = scene.client(service)

        async def answer(request: Item, now: int) -> Item:
            scene.clock.now = now
            return await client.send(request)

        return answer

    try:
        return asyncio.run(run_all(open_service, chosen))
    finally:
        scene.close()


def test_every_case_of_supported_operations_passes_or_differs_deliberately(reports: Reports):
    assert len(reports) == 197
    failed = [name for name, (report, _) in reports.items() if report.outcome == "fail" and not report.deliberate]
    assert failed == [], summary(reports)


def test_cases_that_get_revoked_keys_pass_with_the_policy(base: Base):
    """The only difference of the mandatory profiles that a tenant can decide."""

    def is_affected(case: Case) -> bool:
        return difference(case) is REVOKED

    reports = run(base, is_affected, revoked_keys_readable=True)
    assert {report.outcome for report, _ in reports.values()} == {"pass"}, summary(reports)
    assert len(reports) > 10


def test_every_listed_difference_exists(reports: Reports):
    """A case that passes again must leave the list."""
    failed = {name.partition("/")[2] for name, (report, _) in reports.items() if report.deliberate}
    assert [begins for begins in DIFFERENCES if not any(name.startswith(begins) for name in failed)] == []
    passed = {name.partition("/")[2] for name, (report, _) in reports.items() if report.outcome == "pass"}
    assert [name for name in sorted(passed) if name.startswith(tuple(DIFFERENCES))] == []


def test_stored_report_matches_this_run(reports: Reports, tmp_path: Path):
    found = tmp_path / "report.txt"
    found.write_text(summary(reports) + "\n", "utf-8")
    assert found.read_text("utf-8") == REPORT.read_text("utf-8"), f"if this is progress, commit {found}"
