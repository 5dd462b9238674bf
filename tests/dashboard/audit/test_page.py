"""The Audit page as Streamlit runs it, on a real database."""

import json
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from streamlit.testing.v1 import AppTest

from core.tenants.roles import PersonRole
from dashboard.audit import section
from dashboard.audit.address import AuditQuery, minute
from dashboard.page_context import PageContext
from database.connection.database import Database
from openkcm.contract.audit_events import AuditName
from openkcm.verification.public_keys import PublicKeys
from tests.dashboard.scene import open_tab, select, send_selection, shown, text
from tests.dashboard.seats import TENANT, a_page_context
from tests.database.builders import an_archive, an_audit_event
from tests.database.fixtures import Field
from tests.database.signing import SIGNER, Signer, sign_head

HOSTILE = "[click](https://evil.example) ![x](https://evil.example/x.png) <script>alert(1)</script>"


def draw(context: PageContext, **query: str) -> AppTest:
    return shown("audit", context, **query)


def fill(worker: Database, number: int, tenant: str = TENANT, **changed: object) -> None:
    with worker.tenant_tx(tenant) as tx:
        tx.audit.append_all(
            [an_audit_event(f"e{n}", **{"subject": f"object {n}"} | changed) for n in range(1, number + 1)]
        )


def numbers(page: AppTest) -> list[int]:
    tables = [table.value for table in page.dataframe if "seq" in table.value]
    return [int(seq) for seq in tables[0]["seq"]] if tables else []


def test_an_empty_stream_explains_when_records_appear(dashboard: Database) -> None:
    page = draw(a_page_context(dashboard))
    assert page.title[0].value == "Audit"
    assert "No records" in text(page)
    assert "The first record appears" in text(page)
    assert not page.dataframe


def test_the_newest_records_are_listed_with_the_state_of_the_chain(dashboard: Database, worker: Database) -> None:
    fill(worker, 50)
    sign_head(worker, TENANT)
    fill(worker, 110)
    fill(worker, 1, "beta", subject="of another")
    page = draw(a_page_context(dashboard))
    assert numbers(page) == list(range(110, 10, -1))
    assert "Records: **110**, Signed up to record: **50**, Signature: **verified**" in text(page)
    assert "Signed up to record 50" in text(page)
    assert "60 newer records will be signed within a minute" in text(page)
    assert "Hash links of 100 shown records" in text(page)
    assert page.button(key="audit-newer").disabled
    assert set(page.dataframe[-1].value["what"]) == {"Tenant key created"}
    assert [element.proto.url for element in page.get("link_button")] == [f"/tenant/{TENANT}/audit.jsonl"]
    page.session_state["audit-key"] = True
    page.run()
    [fingerprint] = (key.fingerprint for key in PublicKeys(SIGNER.public_keys()).all())
    assert fingerprint in [code.value for code in page.code]


def test_archived_records_are_named_and_the_first_record_after_them_is_linked(
    dashboard: Database, worker: Database, field: Field
) -> None:
    fill(worker, 5)
    sign_head(worker, TENANT)
    an_archive(field, TENANT)
    page = draw(a_page_context(dashboard))
    assert "Records 1 to 5 are in signed archive files" in text(page)
    assert numbers(page) == [6]
    assert not page.error


def test_a_role_without_the_permission_sees_no_records(dashboard: Database, worker: Database) -> None:
    fill(worker, 3)
    page = draw(a_page_context(dashboard, PersonRole.KEY_ADMINISTRATOR))
    assert "Ask an administrator or an auditor" in page.info[0].value
    assert (len(page.dataframe), len(page.button), len(page.text_input), len(page.markdown)) == (0, 0, 0, 0)


def test_paging_shows_new_records_only_on_the_newest_page(dashboard: Database, worker: Database) -> None:
    fill(worker, 240)
    page = draw(a_page_context(dashboard))
    page.button(key="audit-older").click().run()
    assert numbers(page) == list(range(140, 40, -1))
    fill(worker, 245)
    page.button(key="audit-newer").click().run()
    assert numbers(page) == list(range(240, 140, -1))
    page.button(key="audit-newest").click().run()
    assert numbers(page) == list(range(245, 145, -1))
    for _ in range(2):
        page.button(key="audit-older").click().run()
    assert numbers(page) == list(range(45, 0, -1))
    assert page.button(key="audit-older").disabled


def test_filters_narrow_the_list_and_are_in_the_address(dashboard: Database, worker: Database) -> None:
    fill(worker, 120)
    with worker.tenant_tx(TENANT) as tx:
        tx.audit.append(an_audit_event("odd", actor="ada", outcome="refused", name=AuditName.ACTION_REFUSED))
    page = draw(a_page_context(dashboard))
    page.button(key="audit-older").click().run()
    page.text_input(key="audit-search").set_value("OBJECT 7").run()
    assert numbers(page) == [79, 78, 77, 76, 75, 74, 73, 72, 71, 70, 7]
    assert page.query_params == {"search": "OBJECT 7"}
    page.text_input(key="audit-search").set_value("").run()
    page.session_state["audit-more"] = True
    page.run()
    page.multiselect(key="audit-event").set_value(["dashboard."]).run()
    assert numbers(page) == [121]
    page.multiselect(key="audit-event").set_value([]).run()
    page.multiselect(key="audit-outcome").set_value(["refused"]).run()
    page.text_input(key="audit-actor").set_value("ADA").run()
    assert numbers(page) == [121]
    assert page.query_params == {"outcome": "refused", "actor": "ADA"}
    links = [element.proto.url for element in page.get("link_button")]
    assert links == [f"/tenant/{TENANT}/audit.jsonl?outcome=refused&actor=ADA", f"/tenant/{TENANT}/audit.jsonl"]
    page.text_input(key="audit-object").set_value("nowhere").run()
    assert numbers(page) == []
    assert "Change or remove a filter" in text(page)
    page.button(key="audit-clear").click().run()
    assert (numbers(page)[0], page.query_params) == (121, {})


def test_filters_that_are_not_always_shown_are_named_and_keep_their_values(
    dashboard: Database, worker: Database
) -> None:
    fill(worker, 12)
    hidden = ("audit-outcome", "audit-actor")
    page = draw(a_page_context(dashboard), actor="ada", outcome="refused", **{"from": "2026-01-02T03:04Z"})
    assert next(one.label for one in page.expander) == (
        "Time range and more filters: from 2026-01-02 03:04 UTC, outcome, actor"
    )
    assert numbers(page) == []
    assert not {one.key for one in (*page.multiselect, *page.text_input)}.intersection(hidden)
    page.session_state["audit-more"] = True
    page.run()
    assert page.multiselect(key="audit-outcome").value == ["refused"]
    page.multiselect(key="audit-outcome").set_value([]).run()
    page.session_state["audit-more"] = False
    page.run()
    page.run()
    assert page.query_params == {"from": "2026-01-02T03:04Z", "actor": "ada"}
    assert page.text_input(key="audit-actor").value == "ada"
    page.button(key="audit-clear").click().run()
    assert (len(numbers(page)), page.query_params) == (12, {})
    assert not {one.key.partition("-1")[0] for one in (*page.multiselect, *page.text_input)}.intersection(hidden)


def test_a_request_that_was_on_its_way_does_not_restore_cleared_filters(dashboard: Database, worker: Database) -> None:
    """Streamlit calls the callback of the click in the run of another part, as here; then a request arrives late."""
    fill(worker, 12)
    page = draw(a_page_context(dashboard), search="object 7")
    assert numbers(page) == [7]
    on_its_way = page._tree.get_widget_states()
    page.session_state["audit-wanted"] = AuditQuery()
    page.run()
    assert (len(numbers(page)), page.query_params) == (12, {})
    page._run(on_its_way)
    assert (len(numbers(page)), page.query_params) == (12, {})


@pytest.mark.parametrize(
    ("query", "interact"),
    [
        ({"search": "object 7"}, lambda page: page.text_input(key="audit-search").set_value("object 7").run()),
        ({"live": "1"}, lambda page: page.toggle(key="audit-live").set_value(True).run()),
        ({"seq": "1"}, lambda page: select(page, "audit-table-0", 11)),
    ],
    ids=["filter", "live", "record"],
)
def test_callbacks_write_no_address_that_the_request_came_with(
    dashboard: Database,
    worker: Database,
    sent_queries: list[dict[str, str]],
    query: dict[str, str],
    interact: Callable[[AppTest], object],
) -> None:
    """A request that arrives late has the address from before, with values of fields that are gone."""
    fill(worker, 12)
    page = draw(a_page_context(dashboard))
    page.query_params.update(query)
    interact(page)
    assert (page.query_params, sent_queries) == (query, [])


def uses(worker: Database, tenant: str = TENANT) -> None:
    """Append what a crypto process ships: two services, and one rejection."""
    with worker.tenant_tx(tenant) as tx:
        tx.audit.append_all(
            [
                an_audit_event(
                    f"use {service} {operation}",
                    name=AuditName.CRYPTO_REFUSED if code else AuditName.CRYPTO_USED,
                    actor_kind="service",
                    actor=service,
                    subject="customer/4711",
                    outcome="refused" if code else "success",
                    details={"operation": operation, "count": "3"} | ({"code": code} if code else {}),
                )
                for service, operation, code in (
                    ("orders", "encrypt", ""),
                    ("billing", "decrypt", ""),
                    ("billing", "decrypt ", "ciphertext_refused"),
                )
            ]
        )


def test_a_link_of_another_page_selects_the_records_of_a_service_and_operation(
    dashboard: Database, worker: Database
) -> None:
    uses(worker)
    uses(worker, "beta")
    now = a_page_context(dashboard).now()
    begin, end = (now + timedelta(minutes=n) for n in (-5, 5))
    page = draw(
        a_page_context(dashboard),
        **{"from": minute(begin), "to": minute(end), "service": "billing", "operation": "decrypt"},
    )
    table = page.dataframe[-1].value
    assert list(table["service"]) == ["billing"]
    row = table.iloc[0]
    assert (row["operation"], row["subject"], row["actor"], row["times"]) == (
        "decrypt",
        "customer/4711",
        "billing (service)",
        3,
    )
    assert page.multiselect(key="audit-service").value == ["billing"]
    assert page.toggle(key="audit-live").disabled
    page = draw(a_page_context(dashboard), outcome="refused")
    assert list(page.dataframe[-1].value["cause"]) == ["ciphertext_refused"]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"from": "yesterday"}, "`from` is not a time such as 2026-11-25T17:14Z: `yesterday`."),
        ({"to": "9999-99-99"}, "`to` is not a time"),
        ({"service": "' or 1=1"}, "`service` is unknown"),
        ({"operation": "steal"}, "`operation` is unknown: `steal`."),
        ({"outcome": "odd"}, "`outcome` is unknown"),
        ({"event": "x" * 999}, "`event` is unknown"),
        ({"search": "x" * 201}, "`search` has more than 200 characters."),
        ({"from": "2026-11-25T17:14Z", "to": "2026-11-25T17:14Z"}, "`to` is not after `from`."),
        ({"from": "0001-01-01T00:00+23:59"}, "`from` is not a time"),
    ],
    ids=str,
)
def test_an_invalid_value_of_the_address_is_named_and_ignored(
    dashboard: Database, worker: Database, query: dict[str, str], said: str
) -> None:
    fill(worker, 3)
    page = draw(a_page_context(dashboard), **query)
    assert said in page.warning[0].value
    assert not page.exception


def test_a_time_before_the_first_day_selects_everything(dashboard: Database, worker: Database) -> None:
    fill(worker, 3)
    page = draw(a_page_context(dashboard), **{"from": "1900-01-01T00:00Z"})
    assert not page.exception
    assert numbers(page) == [3, 2, 1]


def test_special_characters_match_nothing(dashboard: Database, worker: Database) -> None:
    fill(worker, 3)
    page = draw(a_page_context(dashboard))
    for hostile in ("'; drop table okcm.tenant --", "%", "\\", "\0", "'||pg_sleep(9)||'"):
        page.text_input(key="audit-search").set_value(hostile).run()
        assert not page.exception
        assert numbers(page) == []


def test_bars_and_their_table_count_the_records_of_each_hour_and_a_selected_hour_narrows_the_range(
    dashboard: Database, worker: Database
) -> None:
    uses(worker)
    uses(worker, "beta")
    page = draw(a_page_context(dashboard))
    assert "2 answered, 1 refused or failed" in text(page)
    open_tab(page, "audit-hours", "Table")
    hours = page.dataframe[0].value
    assert hours[["Answered", "Refused or failed"]].to_numpy().sum(axis=0).tolist() == [2, 1]
    select(page, "audit-bars-table-0", 0)
    begin, end = (datetime.fromisoformat(page.query_params[name]) for name in ("from", "to"))
    assert (begin.minute, end - begin) == (0, timedelta(hours=1))
    assert begin <= a_page_context(dashboard).now() + timedelta(hours=1)
    assert len(numbers(page)) >= 1


def test_a_selected_hour_ends_the_live_view_of_other_hours(dashboard: Database, worker: Database) -> None:
    uses(worker)
    page = draw(a_page_context(dashboard), live="1")
    open_tab(page, "audit-hours", "Table")
    select(page, "audit-bars-table-0", 0)
    assert {"from", "to"} <= set(page.query_params)
    assert page.toggle(key="audit-live").disabled


def test_a_record_opens_again_after_it_was_closed(dashboard: Database, worker: Database) -> None:
    fill(worker, 2)
    page = draw(a_page_context(dashboard))
    for closed in range(2):
        select(page, f"audit-table-{closed}", 1)
        assert page.query_params == {"seq": "1"}
        assert "Record 1" in [heading.value for heading in page.subheader]
        del page.query_params["seq"]
        page.run()  # the request of the browser that closes the record, without a selection


def test_a_request_that_was_on_its_way_does_not_open_a_closed_record(dashboard: Database, worker: Database) -> None:
    fill(worker, 3)
    page = draw(a_page_context(dashboard))
    former = page.dataframe[-1].proto.id
    select(page, "audit-table-0", 1)
    del page.query_params["seq"]
    for _ in range(3):
        send_selection(page, former, 1)
        assert page.query_params == {}
        assert not [heading.value for heading in page.subheader if heading.value.startswith("Record")]
    select(page, "audit-table-1", 0)
    assert page.query_params == {"seq": "3"}


def test_a_selection_in_a_former_list_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streamlit can call it between the run that closes a record and the next run of the whole page."""
    monkeypatch.setattr(section.st, "session_state", {"audit-records-closed": 1})
    monkeypatch.setattr(section, "select", lambda *_: pytest.fail("a closed record is opened again"))
    section._select_record(0, [7])


def test_live_shows_a_new_record_on_the_newest_page(dashboard: Database, worker: Database) -> None:
    fill(worker, 3)
    page = draw(a_page_context(dashboard))
    page.toggle(key="audit-live").set_value(True).run()
    assert page.query_params == {"live": "1"}
    fill(worker, 5)
    page.run()
    assert numbers(page) == [5, 4, 3, 2, 1]
    assert "As of" in text(page)


def test_without_live_the_page_stays_as_it_is(dashboard: Database, worker: Database) -> None:
    fill(worker, 3)
    page = draw(a_page_context(dashboard))
    fill(worker, 5)
    page.run()
    assert numbers(page) == [3, 2, 1]


@pytest.mark.parametrize("seq", ["9999", "0", "-1", "x", "9" * 30])
def test_a_record_of_the_address_that_does_not_exist_is_named(dashboard: Database, worker: Database, seq: str) -> None:
    fill(worker, 2)
    fill(worker, 1, "beta")
    page = draw(a_page_context(dashboard), seq=seq)
    assert "names no record of this tenant" in text(page)


def test_verification_is_below_the_records(dashboard: Database, worker: Database) -> None:
    fill(worker, 2)
    said = text(draw(a_page_context(dashboard)))
    assert said.index("Records") < said.index("Verification")


def test_the_entire_stream_is_verified_on_demand(dashboard: Database, worker: Database) -> None:
    fill(worker, 110)
    sign_head(worker, TENANT)
    page = draw(a_page_context(dashboard))
    page.button(key="audit-verify").click().run()
    assert "110 records verified in" in page.success[0].value
    assert "of record 110, and its signature are verified" in page.success[0].value
    page.button(key="audit-older").click().run()
    assert "110 records verified in" in page.success[0].value


FORGED, _ = Signer().sign(b"anything")


@pytest.mark.parametrize(
    ("statement", "immediate", "verified"),
    [
        (
            "update okcm.audit_event set record = replace(record, 'object', 'subject') where seq = 7",
            "The chain is broken at record 7",
            "record 7 was altered",
        ),
        ("delete from okcm.audit_event where seq > 7", "Records are missing at the end", "record 8 is missing"),
        # An attacker who writes every row can chain it again, and cannot sign it.
        (
            f"update okcm.audit_signed_head set signature = '{FORGED}'",
            "The signature over record 9 does not verify",
            "checkpoint of record 9: the signature does not match this content and public key",
        ),
        (
            "update okcm.audit_signed_head set key = 'audit:2'",
            "it was signed with the key 'audit:2', and the known public keys are: audit:1",
            "audit:2",
        ),
    ],
    ids=["altered", "cut off", "forged signature", "unknown key"],
)
def test_a_manipulated_stream_is_reported_immediate_and_by_the_verification(  # noqa: PLR0917 - fixtures and a table
    dashboard: Database, worker: Database, field: Field, statement: str, immediate: str, verified: str
) -> None:
    fill(worker, 9)
    sign_head(worker, TENANT)
    with field.administrator() as administrator:
        for table in ("audit_event", "audit_signed_head"):
            administrator.execute(f"alter table okcm.{table} disable trigger append_only")
        administrator.execute(statement)
    page = draw(a_page_context(dashboard))
    assert immediate in page.error[0].value
    page.button(key="audit-verify").click().run()
    assert any(verified in error.value for error in page.error)
    assert all("Do not repair, restore or delete anything" in error.value for error in page.error)
    assert not page.success


def test_a_record_is_shown_completely_and_its_values_are_not_markup(dashboard: Database, worker: Database) -> None:
    fill(worker, 2, subject=HOSTILE, actor=HOSTILE, details={"why": HOSTILE})
    page = draw(a_page_context(dashboard))
    select(page, "audit-table-0", 0)
    assert page.query_params == {"seq": "2"}
    texts = [element.value for element in page.text]
    assert [HOSTILE in text for text in texts].count(True) == 4
    raw = json.loads(texts[-1])
    assert (raw["subject"], raw["seq"]) == (HOSTILE, 2)
    shown_as_markup = [*page.markdown, *page.caption, *page.subheader, *page.info, *page.error]
    assert not [element for element in shown_as_markup if "evil" in str(element.value)]
