import csv
import io
from datetime import UTC, date, datetime, timedelta, timezone

import pytest

from core.services import CryptoOperation
from core.usage import BUCKETS, Latency
from dashboard.usage.periods import HEADER, file_name, period, recorded, to_csv, whole_days
from database.usage import UsageDay, UsageHour, UsageSum

TODAY = date(2026, 11, 25)


def a_day(service: str = "orders", refusal: str = "", **more: object) -> UsageDay:
    return UsageDay(TODAY, UsageSum(service, CryptoOperation.ENCRYPT, refusal, 1200, 34, **more))


def test_a_row_has_its_day_in_iso_form_and_latencies_in_milliseconds():
    timed = Latency((0, 0, 0, 1000, *(0,) * (BUCKETS - 4)), 40_000)
    assert to_csv([a_day(latency=timed), a_day(refusal="object_not_found")]).decode() == (
        f"day_utc,{','.join(HEADER)}\r\n"
        "2026-11-25,orders,encrypt,answered,1200,34,1000,0.040,0.045,0.045,0.045\r\n"
        "2026-11-25,orders,encrypt,object_not_found,1200,34,0,,,,\r\n"
    )


def test_without_rows_there_is_still_a_header():
    assert to_csv([]).decode() == f"day_utc,{','.join(HEADER)}\r\n"


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@sum", "\tx", "\rx", "\nx"])
def test_no_cell_is_evaluated_as_a_formula(name: str):
    rows = list(csv.reader(io.StringIO(to_csv([a_day(name, refusal=name)]).decode(), newline="")))
    assert (rows[1][1], rows[1][3]) == (f"'{name}", f"'{name}")


def test_quotes_commas_and_non_ascii_letters_are_kept():
    name = 'a "b", ü'
    rows = list(csv.reader(io.StringIO(to_csv([a_day(name)]).decode("utf-8"), newline="")))
    assert rows[1][1] == name


def test_a_file_name_has_tenant_and_days_or_hours():
    one_day = whole_days(TODAY, TODAY)
    assert file_name("acme", one_day) == "usage-acme-2026-11-25-to-2026-11-25.csv"
    hours = period("24 hours", (), datetime(2026, 11, 25, 12, 30, tzinfo=UTC))
    assert file_name("acme", hours) == "usage-acme-2026-11-24T1300Z-to-2026-11-25T1300Z.csv"
    assert recorded(hours) == "usage 2026-11-24T13:00Z to 2026-11-25T13:00Z"


def test_rows_of_hours_have_the_time_in_utc():
    at = datetime(2026, 11, 25, 15, tzinfo=timezone(timedelta(hours=2)))
    rows = to_csv([UsageHour(at, a_day().used, at)], is_hourly=True).decode().splitlines()
    assert rows[0].startswith("hour_utc,service,")
    assert rows[1].startswith("2026-11-25T13:00Z,orders,encrypt,answered,1200")
