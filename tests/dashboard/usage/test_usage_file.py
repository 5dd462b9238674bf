import csv
import io
from datetime import date

import pytest

from core.services import CryptoOperation
from core.usage import BUCKETS, Latency
from dashboard.usage.periods import HEADER, Period, file_name, to_csv
from database.usage import UsageDay, UsageSum

TODAY = date(2026, 11, 25)


def a_day(service: str = "orders", refusal: str = "", **more: object) -> UsageDay:
    return UsageDay(TODAY, UsageSum(service, CryptoOperation.ENCRYPT, refusal, 1200, 34, **more))


def test_a_row_has_its_day_in_iso_form_and_latencies_in_milliseconds():
    timed = Latency((0, 0, 0, 1000, *(0,) * (BUCKETS - 4)), 40_000)
    assert to_csv([a_day(latency=timed), a_day(refusal="object_not_found")]).decode() == (
        f"{','.join(HEADER)}\r\n"
        "2026-11-25,orders,encrypt,answered,1200,34,1000,0.040,0.045,0.045,0.045\r\n"
        "2026-11-25,orders,encrypt,object_not_found,1200,34,0,,,,\r\n"
    )


def test_without_rows_there_is_still_a_header():
    assert to_csv([]).decode() == f"{','.join(HEADER)}\r\n"


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@sum", "\tx", "\rx", "\nx"])
def test_no_cell_is_evaluated_as_a_formula(name: str):
    rows = list(csv.reader(io.StringIO(to_csv([a_day(name, refusal=name)]).decode(), newline="")))
    assert (rows[1][1], rows[1][3]) == (f"'{name}", f"'{name}")


def test_quotes_commas_and_non_ascii_letters_are_kept():
    name = 'a "b", ü'
    rows = list(csv.reader(io.StringIO(to_csv([a_day(name)]).decode("utf-8"), newline="")))
    assert rows[1][1] == name


def test_a_file_name_has_tenant_and_days():
    assert file_name("acme", Period(TODAY, TODAY)) == "usage-acme-2026-11-25-to-2026-11-25.csv"
