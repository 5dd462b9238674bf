"""The published OASIS cases of KMIP 1.0 to 1.2, all 197."""

import asyncio
from pathlib import Path

import pytest

from crypto_service.kmip.codec.ttlv import Item
from tests.crypto_service.kmip.scene import Base, Scene, connect
from tests.crypto_service.kmip.vectors import Answer, Report, run_all, summary

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


def test_every_case_passes_or_is_justifiably_out_of_scope(reports: Reports):
    assert len(reports) == 197
    outcomes = {name: (report.outcome, bool(wrong)) for name, (report, wrong) in reports.items()}
    expected = {("pass", False), ("out of scope", True)}
    assert {name: outcome for name, outcome in outcomes.items() if outcome not in expected} == {}, summary(reports)


def test_stored_report_matches_this_run(reports: Reports, tmp_path: Path):
    found = tmp_path / "report.txt"
    found.write_text(summary(reports) + "\n", "utf-8")
    assert found.read_text("utf-8") == REPORT.read_text("utf-8"), f"if this is progress, commit {found}"
