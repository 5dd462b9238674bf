"""The texts of the page Services about coverage: full coverage is stated only when it is proven."""

from dataclasses import replace
from datetime import timedelta

import pytest

from compliance.coverage.assessment import Coverage, Overhead, RequestCount, ServiceFacts, coverage
from core.services import CryptoOperation, ServiceState
from core.tenants.lifecycle import State
from dashboard.services import coverage_view as view
from openkcm.contract.protected_fields import Backfill, ProtectedField, Store
from openkcm.contract.services import ServiceKind
from tests.core.covering import DIAGNOSIS, NOW, PHONE, PLACE, TODAY, a_backfill, a_use, ago, whole

SENTENCE = "Encryption Status: All sensitive data protected"


def judged(*services: ServiceFacts, state: State = State.ACTIVE) -> Coverage:
    return coverage(state, services, NOW)


def said(found: Coverage) -> str:
    return "\n".join([view.headline(found).title, *view.missing(found)[0], *view.missing(found)[1]])


def test_full_coverage_is_stated_only_without_gaps() -> None:
    assert said(judged(whole("orders", DIAGNOSIS), whole("users"))) == SENTENCE
    lacking = replace(whole("users"), fields=(PHONE,))
    words = said(judged(whole("orders", DIAGNOSIS), lacking))
    assert SENTENCE not in words
    assert (
        "**users**: `clinic.people.contact.phone` is protected, but no program encrypted or decrypted it in the last "
        "30 days. **Next:** Start every program that uses it with openkcm run"
    ) in words
    assert "orders" not in words


def test_a_service_without_listed_fields_makes_the_coverage_unknown() -> None:
    found = judged(whole("orders"), replace(whole("users"), fields=()))
    headline = view.headline(found)
    assert headline.title == "Encryption Status: coverage unknown, no fields listed"
    assert "`users` has no listed fields" in headline.words
    assert not headline.protected
    assert "**users**: has no listed fields, so its coverage is unknown. **Next:** List its sensitive fields" in (
        said(found)
    )
    assert [one.value for one in view.figures(found) if one.label == "Services protected"] == ["1 of 2"]
    assert [view.line(one, TODAY).title.split(",")[0] for one in found.services] == ["protected", "unknown"]
    many = judged(*(replace(whole(f"s-{n}"), fields=()) for n in range(9)))
    assert "`s-5` and 3 more have no listed fields" in view.headline(many).words


def test_without_a_connected_service_there_is_no_warning() -> None:
    found = view.headline(judged())
    assert (found.protected, found.begun) == (False, False)
    assert view.missing(judged()) == ((), ())
    assert not view.headline(judged(state=State.PROVISIONING)).begun
    locked = judged(whole(), state=State.LOCKED)
    assert view.headline(locked).begun
    assert "The tenant is locked, so encryption is rejected" in said(locked)


def test_all_gaps_are_listed_and_the_first_are_shown_at_once() -> None:
    lacking = [replace(whole(f"s-{n}"), state=None, discovered=True) for n in range(9)]
    shown, more = view.missing(judged(*lacking))
    assert (len(shown), len(more)) == (3, 6)
    shown, more = view.missing(judged(*(replace(lacking[0], service=f"s-{n}") for n in range(200))))
    assert (len(shown), len(more), more[-1]) == (3, 101, "97 more: `openkcmctl service coverage` lists all")
    assert view.headline(judged(*lacking)).words.startswith("9 gaps.")
    assert view.headline(judged(lacking[0])).words.startswith("1 gap.")


@pytest.mark.parametrize(
    ("measured", "words"),
    [
        (None, "not measured yet"),
        (Overhead(0, 1000), "<0.1% overhead"),
        (Overhead(35, 1000), "3.5% overhead"),
        (Overhead(350, 1000), "35% overhead"),
        (Overhead(2000, 1000), "200% overhead"),
    ],
)
def test_overhead_is_shown_as_measured(measured: Overhead | None, words: str) -> None:
    assert view.overhead(measured) == words


def test_figures_state_a_missing_measurement() -> None:
    uses = (a_use(), a_use(days=3), a_use(days=20))
    figures = {one.label: one for one in view.figures(judged(replace(whole(), uses=uses), whole("b")))}
    assert figures["Services protected"].value == "2 of 2"
    assert (figures["Operations today"].value, figures["Operations today"].note) == ("20", "30 in 7 days (UTC)")
    assert figures["Performance impact"].value == "3.5%"
    silent = replace(whole(), uses=(a_use(requests=0, request_microseconds=0),))
    [*_, impact] = view.figures(judged(silent))
    assert (impact.value, impact.note) == ("unknown", "not measured yet by your programs")


def test_a_service_shows_its_encryption_and_each_field() -> None:
    fields = (DIAGNOSIS, replace(PHONE, plaintext_allowed=True))
    uses = (a_use(), a_use(f"{PLACE}#plain", 1, operations=1200), a_use("public.t.x", bytes=2_500_000))
    asked = (RequestCount(TODAY, CryptoOperation.DATA_KEY, 2),)
    [found] = judged(replace(whole("orders", *fields), uses=uses, asked=asked)).services
    line = view.line(found, TODAY)
    assert line.title == "3 gaps, 22 operations today, 3.5% overhead"
    assert line.words[0] == "Encryption: field encryption in its programs"
    assert dict(line.fields[0]) == {
        "Field": "public.patients.diagnosis",
        "Mode": "randomised",
        "Today": 10,
        "7 days": 10,
        "30 days": 10,
        "Data": "320 B",
        "Last seen": "2026-11-26",
        "Plain values": "1,200 read, last 2026-11-25",
        "Overhead": "3.5% overhead",
    }
    running = replace(whole("orders", DIAGNOSIS), backfills=(a_backfill(Backfill.RUNNING),))
    [found] = judged(running).services
    assert view.line(found, TODAY).fields[0]["Plain values"] == "60 to be encrypted"
    assert (line.fields[1]["Last seen"], line.fields[1]["Plain values"]) == ("not seen", "allowed")
    assert line.fields[1]["Mode"] == "deterministic: equal values visible"
    assert line.fields[1]["Overhead"] == "not measured yet"
    assert [line.fields[2][name] for name in ("Field", "Mode", "Data")] == ["public.t.x", "not on the list", "2.5 MB"]


def test_a_service_without_measurements_says_so() -> None:
    [found] = judged(replace(whole("z"), uses=())).services
    assert view.line(found, TODAY).title == "2 gaps, 0 operations today, overhead not measured yet"


def test_each_of_thirty_days_is_in_the_chart_and_its_summary() -> None:
    assert view.by_day(judged(replace(whole(), uses=()))) is None
    days = view.by_day(judged(whole("orders"), replace(whole("users"), uses=(a_use(), a_use(days=2, operations=15)))))
    assert days is not None
    assert days.source()[0] == ["Day", "users", "orders"]
    assert (len(days.rows), days.rows[0][0], days.rows[-1]) == (30, ago(29).isoformat(), (TODAY.isoformat(), (10, 10)))
    assert days.summary() == "35 operations in the last 30 days; the most on 2026-11-26: 20."
    many = view.by_day(judged(*(whole(f"s-{n}") for n in range(9))))
    assert many is not None
    assert many.services[6:] == ("s-6", "other services")
    assert many.rows[-1][1] == (*[10] * 7, 20)


def test_disconnected_services_are_not_included() -> None:
    put_away = [replace(whole(name), state=ServiceState.DISCONNECTED, fields=()) for name in "ab"]
    assert view.retired(judged(whole())) == ""
    assert view.retired(judged(whole("c"), put_away[0])).startswith("`a` is not included")
    assert view.retired(judged(whole("c"), *put_away)).startswith("`a` and `b` are not included")


def test_external_names_are_not_markup() -> None:
    field = ProtectedField(Store.POSTGRESQL, "public.`x` <b>", "**y**", DIAGNOSIS.mode)
    found = judged(ServiceFacts("orders", ServiceKind.MONGODB, ServiceState.CONNECTED, fields=(field,)))
    assert "`public.'x' <b>.**y**`" in said(found)


def test_an_expired_certificate_and_a_suspended_tenant_are_both_reported() -> None:
    lapsed = replace(whole(), certificate_ends=NOW - timedelta(hours=1))
    words = said(judged(lapsed, state=State.SUSPENDED))
    assert "The tenant is suspended" in words
    assert "**orders**: has no valid certificate" in words
