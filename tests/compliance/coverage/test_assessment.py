"""Coverage assessment: a tenant is fully covered only without any known gap."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compliance.coverage.assessment import (
    LATELY_DAYS,
    LOOKED_BACK_DAYS,
    BackfillProgress,
    Coverage,
    EncryptionMethod,
    FullyCovered,
    Incomplete,
    Overhead,
    ReportedUse,
    RequestCount,
    ServiceFacts,
    Unknown,
    Volume,
    coverage,
    first_day,
)
from compliance.coverage.gaps import NoFieldsListed
from core.services import CryptoOperation, ServiceState
from core.tenants.lifecycle import State
from openkcm.contract.protected_fields import Backfill, Mode, ProtectedField, Store
from openkcm.contract.services import OTHER_PLACES, ServiceKind
from tests.core.covering import DIAGNOSIS, NOW, PHONE, PLACE, TODAY, a_backfill, a_use, ago, whole


def judged(*services: ServiceFacts, state: State = State.ACTIVE) -> Coverage:
    return coverage(state, services, NOW)


def codes(*services: ServiceFacts, state: State = State.ACTIVE) -> list[str]:
    match judged(*services, state=state).verdict:
        case FullyCovered():
            return []
        case Incomplete(gaps) | Unknown(gaps):
            return [gap.code for gap in gaps]


Break = Callable[[ServiceFacts], ServiceFacts]
BREAKS: Mapping[str, Break] = MappingProxyType(
    {
        "not_connected": lambda one: replace(one, state=None, discovered=True),
        "being_connected": lambda one: replace(one, state=ServiceState.CONNECTING),
        "disconnected": lambda one: replace(one, state=ServiceState.DISCONNECTED, discovered=True),
        "certificate_expired": lambda one: replace(one, certificate_ends=NOW),
        "nothing_encrypted": lambda one: replace(one, fields=(), uses=(), asked=(), fetched=None),
        "field_not_reported": lambda one: replace(one, fields=(*one.fields, PHONE)),
        "plaintext_allowed": lambda one: replace(
            one, fields=(*one.fields, replace(PHONE, plaintext_allowed=True)), uses=(*one.uses, a_use(PHONE.name))
        ),
        "plaintext_read": lambda one: replace(one, uses=(*one.uses, a_use(f"{PLACE}#plain"))),
        "backfill_unfinished": lambda one: replace(one, backfills=(a_backfill(Backfill.STOPPED),)),
        "unreported_fields": lambda one: replace(one, uses=(*one.uses, a_use(OTHER_PLACES))),
    }
)


@given(st.lists(st.sampled_from([(PHONE,), (DIAGNOSIS,), (DIAGNOSIS, PHONE)]), min_size=1, max_size=4))
def test_services_without_gaps_are_fully_covered(lists: list[tuple[ProtectedField, ...]]) -> None:
    assert codes(*(whole(f"s-{n}", *fields) for n, fields in enumerate(lists))) == []


@given(
    st.integers(0, 3), st.lists(st.sampled_from([(PHONE,), (DIAGNOSIS,)]), max_size=3), st.sampled_from(sorted(BREAKS))
)
def test_one_gap_of_any_service_is_reported_for_that_service(at: int, others: list[tuple], broken: str) -> None:
    services = [whole(f"s-{n}", *fields) for n, fields in enumerate(others)]
    services.insert(at % (len(services) + 1), BREAKS[broken](whole("broken", DIAGNOSIS)))
    verdict = judged(*services).verdict
    assert isinstance(verdict, Incomplete)
    assert {gap.service for gap in verdict.gaps} == {"broken"}
    assert broken in {gap.code for gap in verdict.gaps}
    assert all(gap.missing and gap.next_step for gap in verdict.gaps)


def facts() -> st.SearchStrategy[ServiceFacts]:
    """Return arbitrary services, most of them inconsistent."""
    fields = st.builds(
        ProtectedField,
        st.sampled_from(Store),
        st.sampled_from(["public.patients", "clinic.people"]),
        st.sampled_from(["diagnosis", "contact.phone", "a#plain"]),
        st.sampled_from(Mode),
        st.booleans(),
    )
    places = st.one_of(
        fields.map(lambda one: one.name),
        fields.map(lambda one: f"{one.name}#plain"),
        st.sampled_from([OTHER_PLACES, "", "#plain", "ü"]),
    )
    days = st.integers(-2, LOOKED_BACK_DAYS + 2).map(ago)
    counts = st.integers(0, 5)
    backfills = st.builds(BackfillProgress, places, st.sampled_from(Backfill), counts, counts, days)
    return st.builds(
        ServiceFacts,
        st.sampled_from("abc"),
        st.sampled_from(ServiceKind),
        st.sampled_from([None, *ServiceState, ServiceState.CONNECTED, ServiceState.CONNECTED]),
        discovered=st.booleans(),
        certificate_ends=st.one_of(st.none(), st.integers(-1, 50).map(lambda hours: NOW + timedelta(hours=hours))),
        fields=st.lists(fields, max_size=2, unique_by=lambda one: one.name).map(tuple),
        uses=st.lists(st.builds(ReportedUse, days, places, *[counts] * 5), max_size=6).map(tuple),
        backfills=st.lists(backfills, max_size=2, unique_by=lambda one: one.place).map(tuple),
        asked=st.lists(st.builds(RequestCount, days, st.sampled_from(CryptoOperation), counts), max_size=3).map(tuple),
        fetched=st.one_of(st.none(), days),
        keys_kept=counts,
    )


@given(st.sampled_from(State), st.lists(facts(), max_size=3, unique_by=lambda one: one.service))
def test_fully_covered_implies_that_all_requirements_are_met(state: State, services: list) -> None:
    found = coverage(state, services, NOW)
    if not isinstance(found.verdict, FullyCovered):
        return
    counting = {one.service for one in found.services}
    assert counting
    assert state is State.ACTIVE
    for one in services:
        if one.service not in counting:
            assert (one.state, one.fields, one.discovered) == (ServiceState.DISCONNECTED, (), False)
            continue
        assert one.state is ServiceState.CONNECTED
        assert one.certificate_ends is not None
        assert one.certificate_ends > NOW
        recent = [use for use in one.uses if first_day(TODAY) <= use.day <= TODAY and use.operations]
        assert one.fields
        assert {field.name for field in one.fields} <= {use.place for use in recent}
        assert not any(field.plaintext_allowed for field in one.fields)
        finished = {backfill.place: backfill.day for backfill in one.backfills if backfill.state is Backfill.FINISHED}
        plain = [use for use in recent if use.place.endswith("#plain")]
        assert all(use.day < finished[use.place.removesuffix("#plain")] for use in plain)
        assert {backfill.state for backfill in one.backfills} <= {Backfill.FINISHED, Backfill.UNDONE}
        assert not {backfill.place for backfill in one.backfills if backfill.place not in finished} & {
            field.name for field in one.fields
        }
        assert not [use for use in recent if use.place == OTHER_PLACES]


def test_services_without_listed_fields_are_unknown_and_not_covered() -> None:
    encrypting = RequestCount(TODAY, CryptoOperation.ENCRYPT, 5)
    unlisted = ServiceFacts(
        "shop",
        ServiceKind.MICROSERVICE,
        ServiceState.CONNECTED,
        certificate_ends=NOW + timedelta(1),
        asked=(encrypting,),
    )
    assert judged(unlisted).verdict == Unknown((NoFieldsListed("shop"),))
    assert judged(unlisted, whole()).verdict == Unknown((NoFieldsListed("shop"),))
    silent = replace(unlisted, asked=())
    assert codes(silent) == ["nothing_encrypted", "no_fields_listed"]
    assert isinstance(judged(silent).verdict, Incomplete)
    assert isinstance(judged(unlisted, state=State.LOCKED).verdict, Incomplete)


@pytest.mark.parametrize("state", [state for state in State if state is not State.ACTIVE])
def test_tenant_that_may_not_encrypt_is_not_covered(state: State) -> None:
    assert codes(whole(), state=state) == ["tenant_not_operational"]


def test_tenant_without_service_is_not_covered_and_retired_services_do_not_count() -> None:
    retired = replace(whole("old"), state=ServiceState.DISCONNECTED, fields=())
    assert codes() == codes(retired) == ["no_service"]
    found = judged(retired, whole())
    assert (found.verdict, found.retired) == (FullyCovered(), ("old",))
    assert codes(replace(retired, fields=(DIAGNOSIS,)), whole()) == ["disconnected"]


def test_field_is_seen_only_if_used_within_the_period() -> None:
    service = whole("orders", DIAGNOSIS)
    asked = (RequestCount(TODAY, CryptoOperation.DATA_KEY, 1),)
    for days, expected in ((LOOKED_BACK_DAYS - 1, []), (LOOKED_BACK_DAYS, ["field_not_reported"])):
        assert codes(replace(service, uses=(a_use(days=days),), asked=asked)) == expected


@pytest.mark.parametrize(
    ("reported", "ways"),
    [
        ({"uses": (a_use(days=LATELY_DAYS - 1),)}, (EncryptionMethod.PROGRAMS,)),
        ({"uses": (a_use(days=LATELY_DAYS),)}, ()),
        ({"uses": (a_use(operations=0),)}, ()),
        ({"asked": (RequestCount(TODAY, CryptoOperation.ENCRYPT, 1),)}, (EncryptionMethod.REQUESTS,)),
        ({"asked": (RequestCount(ago(LATELY_DAYS), CryptoOperation.ENCRYPT, 1),)}, ()),
        ({"asked": (RequestCount(TODAY, CryptoOperation.DATA_KEY, 1),)}, (EncryptionMethod.DATA_KEYS,)),
        ({"asked": (RequestCount(TODAY, CryptoOperation.MAC, 1),)}, ()),
        ({"asked": (RequestCount(TODAY, CryptoOperation.GET, 1),), "keys_kept": 1}, (EncryptionMethod.KMIP_KEYS,)),
        # A database that started a year ago and fetched its key then.
        ({"fetched": ago(365), "keys_kept": 1}, (EncryptionMethod.KMIP_KEYS,)),
        ({"fetched": ago(365)}, ()),
        ({"keys_kept": 1}, ()),
    ],
)
def test_encryption_methods_follow_from_recent_operations(reported: dict, ways: tuple[EncryptionMethod, ...]) -> None:
    service = replace(whole(), uses=(), **reported) if "uses" not in reported else replace(whole(), **reported)
    [found] = judged(replace(service, fields=())).services
    assert found.ways == ways
    assert isinstance(found.verdict, Unknown) is bool(ways)


def test_volumes_of_a_field_cover_today_a_week_and_a_month() -> None:
    reported = (a_use(days=0), a_use(days=6), a_use(days=7), a_use(days=29), a_use(days=30), a_use(days=-1))
    [found] = judged(replace(whole("orders", DIAGNOSIS), uses=reported)).services
    [field] = found.fields
    assert (field.today, field.week, field.month) == (Volume(10, 320), Volume(20, 640), Volume(40, 1280))
    assert (field.seen, field.plaintext_read) == (TODAY, None)
    assert dict(found.days) == {ago(29): 10, ago(7): 10, ago(6): 10, TODAY: 10}


def test_reported_places_outside_the_list_have_no_field() -> None:
    reported = (a_use(), a_use(PHONE.name), a_use("postgresql:public.t.a#b"))
    [found] = judged(replace(whole("orders", DIAGNOSIS), uses=reported)).services
    assert [(one.place, one.field) for one in found.fields] == [
        (PLACE, DIAGNOSIS),
        (PHONE.name, None),
        ("postgresql:public.t.a#b", None),
    ]


def test_plain_values_are_counted_separately() -> None:
    reported = (a_use(), a_use(f"{PLACE}#plain", operations=3), a_use(f"{PLACE}#plain", 2, operations=4))
    [found] = judged(replace(whole("orders", DIAGNOSIS), uses=reported)).services
    assert (found.fields[0].plain_values, found.fields[0].plaintext_read) == (7, TODAY)
    assert dict(found.days) == {TODAY: 10}


@pytest.mark.parametrize("state", Backfill)
def test_existing_values_are_a_gap_until_the_backfill_is_finished(state: Backfill) -> None:
    found = codes(replace(whole("orders", DIAGNOSIS), backfills=(a_backfill(state),)))
    assert found == ([] if state is Backfill.FINISHED else ["backfill_unfinished"])
    # Decrypted for removal, and no longer on the list.
    left = replace(whole("orders", PHONE), uses=(a_use(PHONE.name),), backfills=(a_backfill(state),))
    assert codes(left) == ([] if state in {Backfill.FINISHED, Backfill.UNDONE} else ["backfill_unfinished"])


@pytest.mark.parametrize(("read", "expected"), [(3, []), (2, ["plaintext_read"]), (0, ["plaintext_read"])])
def test_plain_values_read_before_a_finished_backfill_are_no_gap(read: int, expected: list[str]) -> None:
    reported = (a_use(), a_use(f"{PLACE}#plain", read))
    service = replace(whole("orders", DIAGNOSIS), uses=reported, backfills=(a_backfill(Backfill.FINISHED, days=2),))
    assert codes(service) == expected


def test_next_step_depends_on_the_state_of_the_backfill() -> None:
    allowed = replace(whole("orders", replace(DIAGNOSIS, plaintext_allowed=True)), backfills=())
    steps = [
        [gap.next_step for gap in judged(replace(allowed, backfills=backfills)).verdict.gaps]
        for backfills in ((), (a_backfill(Backfill.FINISHED),), (a_backfill(Backfill.STOPPED),))
    ]
    assert steps[0] == ["encrypt the existing values with openkcm backfill, then forbid plain values on the list"]
    assert steps[1] == ["forbid plain values on the list"]
    service = replace(whole("people", PHONE), uses=(a_use(PHONE.name), a_use(f"{PHONE.name}#plain")))
    [gap] = judged(service).verdict.gaps
    assert gap.next_step.startswith("let a program under openkcm run write the existing values again, and find")
    assert steps[2][1] == "start the backfill again; it resumes where it stopped"


def test_unmeasured_overhead_is_none_and_not_zero() -> None:
    assert judged(whole()).overhead == Overhead(70, 2000)
    assert judged(whole(), whole("b")).overhead == Overhead(140, 4000)
    assert Overhead(70, 2000).share == pytest.approx(0.035)
    # The time counts although another place reports the request.
    apart = (a_use(request_microseconds=0), a_use(PHONE.name, microseconds=0))
    assert judged(replace(whole(), uses=apart)).overhead == Overhead(70, 2000)
    old = a_use(f"{PLACE}#backfilled", microseconds=10**9)
    assert judged(replace(whole(), uses=(a_use(), old))).overhead == Overhead(70, 2000)
    for silent in (a_use(requests=0, request_microseconds=0), a_use(request_microseconds=0), a_use(days=LATELY_DAYS)):
        assert judged(replace(whole(), uses=(silent,))).overhead is None
    assert judged().overhead is None


def test_overhead_is_formatted_as_percentage() -> None:
    words = [Overhead(spent, 100_000).words() for spent in (50, 3_510, 35_100)]
    assert words == ["<0.1% overhead", "3.5% overhead", "35% overhead"]


@pytest.mark.parametrize("state", [Backfill.UNDOING, Backfill.STOPPED, Backfill.RUNNING])
def test_every_gap_has_a_next_step(state: Backfill) -> None:
    service = replace(whole("orders", DIAGNOSIS), backfills=(a_backfill(state),))
    found = judged(service, state=State.SUSPENDED)
    assert found.services[0].service == "orders"
    texts = [text for gap in found.verdict.gaps for text in (gap.missing, gap.next_step)]
    assert len(set(texts)) == len(texts) >= 4
