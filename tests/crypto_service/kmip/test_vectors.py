"""The published OASIS cases of KMIP 1.0 to 1.2, all 197."""

import asyncio
from pathlib import Path

import pytest

from crypto_service.kmip.codec.ttlv import Item
from tests.crypto_service.kmip.scene import Base, Scene, connect
from tests.crypto_service.kmip.vectors import DIFFERENCES, Answer, Report, run_all, summary

REPORT = Path(__file__).with_name("oasis") / "report.txt"
Reports = dict[str, tuple[Report, list[str]]]


@pytest.fixture(scope="module")
def reports(base: Base) -> Reports:
    scene = Scene(base)

    def open_service(service: str) -> Answer:
        connect(base.worker, scene.tenant, service)
        client = scene.client(service)

        async def answer(request: Item, now: int) -> Item:
            scene.clock.now = now
            return await client.send(request)

        return answer

    try:
        return asyncio.run(run_all(open_service))
    finally:
        scene.close()


def test_every_case_of_supported_operations_passes_or_differs_deliberately(reports: Reports):
    assert len(reports) == 197
    failed = [name for name, (report, _) in reports.items() if report.outcome == "fail" and not report.deliberate]
    assert failed == [], summary(reports)


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
