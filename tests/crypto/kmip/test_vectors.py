"""The published OASIS cases of KMIP 1.0 to 1.2, all 197."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crypto.kmip.oasis_service import Services
from tests.crypto.kmip.vectors import Report, run_all, summary
from tests.database.fixtures import Field, Server, clone

REPORT = Path(__file__).with_name("oasis") / "report.txt"
Reports = dict[str, tuple[Report, list[str]]]


@pytest.fixture(scope="module")
def reports(server: Server, template: str) -> Iterator[Reports]:
    with clone(server, template) as field:
        yield asyncio.run(_run(field))


async def _run(field: Field) -> Reports:
    services = Services(field)
    try:
        return await run_all(services.open)
    finally:
        services.close()


def test_every_case_within_scope_passes_in_full(reports: Reports):
    failed = {name: wrong for name, (report, wrong) in reports.items() if report.outcome == "fail"}
    assert not failed, summary(reports)


def test_at_least_half_of_all_cases_pass(reports: Reports):
    passed = [name for name, (report, _) in reports.items() if report.outcome == "pass"]
    assert len(reports) == 197
    assert len(passed) * 2 >= len(reports)


def test_no_case_that_would_pass_is_called_out_of_scope(reports: Reports):
    assert [name for name, (report, wrong) in reports.items() if report.outcome == "out of scope" and not wrong] == []


def test_the_report_beside_the_cases_says_what_this_run_says(reports: Reports, tmp_path: Path):
    found = tmp_path / "report.txt"
    found.write_text(summary(reports) + "\n", "utf-8")
    assert found.read_text("utf-8") == REPORT.read_text("utf-8"), f"if this is progress, commit {found}"
