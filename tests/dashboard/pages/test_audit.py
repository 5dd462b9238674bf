"""The Audit page as Streamlit runs it, on a real database."""

import json

import pytest
from streamlit.testing.v1 import AppTest

from config.public_keys import PublicKeys
from dashboard.seat import Seat
from database.connection import Database
from database.interfaces import SignedHead
from tenancy.audit import AuditName, head_message
from tenancy.people import PersonRole
from tests.dashboard.seats import TENANT, a_seat
from tests.database.builders import an_audit_event
from tests.database.fixtures import Field
from tests.database.signing import SIGNER, Signer, sign_head

HOSTILE = "[click](https://evil.example) ![x](https://evil.example/x.png) <script>alert(1)</script>"


def _script(seat) -> None:
    from dashboard.pages import audit  # noqa: PLC0415 - AppTest runs the text of this function

    audit.draw(seat)


def run(seat: Seat) -> AppTest:
    page = AppTest.from_function(_script, args=(seat,), default_timeout=30).run()
    assert not page.exception
    return page


def fill(worker: Database, number: int, tenant: str = TENANT, **changed: object) -> None:
    with worker.tenant_tx(tenant) as tx:
        tx.audit.append_all(
            [an_audit_event(f"e{n}", **{"subject": f"object {n}"} | changed) for n in range(1, number + 1)]
        )


def sign(worker: Database) -> None:
    sign_head(worker, TENANT)


def tamper(field: Field, statement: str) -> None:
    with field.administrator() as administrator:
        administrator.execute("alter table okcm.audit_event disable trigger append_only")
        administrator.execute(statement)


def numbers(page: AppTest) -> list[int]:
    return [] if not page.dataframe else [int(seq) for seq in page.dataframe[0].value["seq"]]


def said(page: AppTest) -> str:
    parts = (page.markdown, page.caption, page.info, page.error, page.success)
    return "\n".join(str(element.value) for part in parts for element in part)


@pytest.fixture
def dashboard(field: Field) -> Database:
    return field.open("dashboard")


def test_an_empty_stream_says_what_will_appear(dashboard: Database) -> None:
    page = run(a_seat(dashboard))
    assert page.title[0].value == "Audit"
    assert "Nothing is recorded" in said(page)
    assert "The first record appears" in said(page)
    assert not page.dataframe


@pytest.mark.parametrize("role", [PersonRole.ADMINISTRATOR, PersonRole.AUDITOR])
def test_the_newest_records_are_shown_and_how_the_chain_stands(
    dashboard: Database, worker: Database, role: PersonRole
) -> None:
    fill(worker, 50)
    sign(worker)
    fill(worker, 60)
    fill(worker, 1, "beta", subject="of another")
    page = run(a_seat(dashboard, role))
    assert numbers(page) == list(range(60, 10, -1))
    assert [metric.value for metric in page.metric] == ["60", "50", "Verified"]
    assert "Signed up to record 50" in said(page)
    assert "the 10 records after it will be signed within a minute" in said(page)
    assert "The links of 50 shown records" in said(page)
    assert page.button(key="audit-newer").disabled
    assert set(page.dataframe[0].value["what"]) == {"Tenant key created"}


def test_a_role_that_may_not_see_the_stream_is_told_so_and_sees_nothing(dashboard: Database, worker: Database) -> None:
    fill(worker, 3)
    page = run(a_seat(dashboard, PersonRole.KEY_ADMINISTRATOR))
    assert "Ask an administrator or an auditor" in page.info[0].value
    assert (len(page.dataframe), len(page.button), len(page.text_input), len(page.metric)) == (0, 0, 0, 0)


def test_pages_are_turned_and_a_record_that_came_meanwhile_is_shown_by_newest(
    dashboard: Database, worker: Database
) -> None:
    fill(worker, 120)
    page = run(a_seat(dashboard))
    page.button(key="audit-older").click().run()
    assert numbers(page) == list(range(70, 20, -1))
    fill(worker, 125)
    page.button(key="audit-newer").click().run()
    assert numbers(page) == list(range(120, 70, -1))
    page.button(key="audit-newest").click().run()
    assert numbers(page) == list(range(125, 75, -1))
    for _ in range(2):
        page.button(key="audit-older").click().run()
    assert numbers(page) == list(range(25, 0, -1))
    assert page.button(key="audit-older").disabled


def test_filters_narrow_the_list_and_begin_at_the_newest(dashboard: Database, worker: Database) -> None:
    fill(worker, 120)
    with worker.tenant_tx(TENANT) as tx:
        tx.audit.append(an_audit_event("odd", actor="ada", outcome="refused", name=AuditName.ACTION_REFUSED))
    page = run(a_seat(dashboard))
    page.button(key="audit-older").click().run()
    page.text_input(key="audit-text").set_value("OBJECT 7").run()
    assert numbers(page) == [79, 78, 77, 76, 75, 74, 73, 72, 71, 70, 7]
    page.text_input(key="audit-text").set_value("").run()
    page.multiselect(key="audit-names").set_value(["dashboard."]).run()
    assert numbers(page) == [121]
    page.multiselect(key="audit-names").set_value([]).run()
    page.multiselect(key="audit-outcomes").set_value(["refused"]).run()
    page.text_input(key="audit-actor").set_value("ADA").run()
    assert numbers(page) == [121]
    page.text_input(key="audit-subject").set_value("nowhere").run()
    assert numbers(page) == []
    assert "Change or remove a filter" in said(page)


def test_days_bound_the_list(dashboard: Database, worker: Database) -> None:
    fill(worker, 3)
    seat = a_seat(dashboard)
    today = seat.now().date()
    page = run(seat)
    page.date_input(key="audit-since").set_value(today).run()
    assert numbers(page) == [3, 2, 1]
    page.date_input(key="audit-since").set_value(None).run()
    page.date_input(key="audit-until").set_value(today.replace(year=today.year - 1)).run()
    assert numbers(page) == []


@pytest.mark.parametrize("text", ["'; drop table okcm.tenant --", "%", "\\", "\0", "'||pg_sleep(9)||'"])
def test_hostile_search_text_finds_nothing_and_breaks_nothing(dashboard: Database, worker: Database, text: str) -> None:
    fill(worker, 3)
    page = run(a_seat(dashboard))
    page.text_input(key="audit-text").set_value(text).run()
    assert not page.exception
    assert numbers(page) == []


def test_the_whole_stream_is_verified_on_demand(dashboard: Database, worker: Database) -> None:
    fill(worker, 60)
    sign(worker)
    page = run(a_seat(dashboard))
    page.button(key="audit-verify").click().run()
    assert "60 records verified in" in page.success[0].value
    assert "of record 60, is in its place" in page.success[0].value
    page.button(key="audit-older").click().run()
    assert "60 records verified in" in page.success[0].value


def test_a_broken_stream_is_named_and_nobody_is_told_to_repair_it(
    dashboard: Database, worker: Database, field: Field
) -> None:
    fill(worker, 60)
    tamper(field, "update okcm.audit_event set record = replace(record, 'object', 'subject') where seq = 57")
    page = run(a_seat(dashboard))
    assert "The chain is broken at record 57" in page.error[0].value
    page.button(key="audit-verify").click().run()
    assert any("record 57 was altered" in error.value for error in page.error)
    assert all("Do not repair, restore or delete anything yet" in error.value for error in page.error)
    assert not page.success


def test_a_stream_whose_end_is_gone_says_so_at_once(dashboard: Database, worker: Database, field: Field) -> None:
    fill(worker, 9)
    sign(worker)
    tamper(field, "delete from okcm.audit_event where seq > 7")
    page = run(a_seat(dashboard))
    assert "Records are missing at the end" in page.error[0].value


def test_the_signature_is_verified_and_the_keys_fingerprint_can_be_compared(
    dashboard: Database, worker: Database
) -> None:
    fill(worker, 3)
    sign(worker)
    page = run(a_seat(dashboard))
    assert {metric.label: metric.value for metric in page.metric}["Signature"] == "Verified"
    page.session_state["audit-key"] = True
    page.run()
    [fingerprint] = (key.fingerprint for key in PublicKeys(SIGNER.public_keys()).all())
    assert fingerprint in [code.value for code in page.code]


def test_a_rechained_stream_with_a_head_by_somebody_else_is_alarming(
    dashboard: Database, worker: Database, field: Field
) -> None:
    """Whoever can write every row can chain it anew, but not sign it."""
    fill(worker, 3)
    sign(worker)
    forged, key = Signer().sign(b"anything")
    assert key == SIGNER.name
    with field.administrator() as administrator:
        administrator.execute("alter table okcm.audit_signed_head disable trigger append_only")
        administrator.execute("update okcm.audit_signed_head set signature = %s", [forged])
    page = run(a_seat(dashboard))
    assert {metric.label: metric.value for metric in page.metric}["Signature"] == "Not verified"
    assert "The signature over record 3 does not verify" in page.error[0].value
    page.button(key="audit-verify").click().run()
    assert "the signed head of record 3: the signature is not by the public key" in said(page)
    assert not page.success


def test_a_head_by_a_key_that_is_not_on_record_is_not_believed(dashboard: Database, worker: Database) -> None:
    fill(worker, 3)
    with worker.tenant_tx(TENANT) as tx:
        head = tx.audit.head()
        assert head is not None
        signature, key = Signer("audit:2").sign(head_message(TENANT, head.seq, head.chain_hash))
        tx.audit.save_signed_head(SignedHead(head.seq, head.chain_hash, signature, key))
    page = run(a_seat(dashboard))
    assert "it is by the key 'audit:2', and the public keys known are: none" in page.error[0].value


def test_a_record_opens_whole_and_what_it_says_is_no_markup(dashboard: Database, worker: Database) -> None:
    fill(worker, 2, subject=HOSTILE, actor=HOSTILE, details={"why": HOSTILE})
    page = run(a_seat(dashboard))
    page.session_state["audit-table-1"] = {"selection": {"rows": [0], "columns": [], "cells": []}}
    page.run()
    assert not page.exception
    texts = [element.value for element in page.text]
    assert [HOSTILE in text for text in texts].count(True) == 3
    raw = json.loads(next(code.value for code in page.code if code.language == "json"))
    assert (raw["subject"], raw["seq"]) == (HOSTILE, 2)
    shown_as_markup = [*page.markdown, *page.caption, *page.subheader, *page.info, *page.error]
    assert not [element for element in shown_as_markup if "evil" in str(element.value)]


def test_downloads_lead_to_what_is_chosen(dashboard: Database, worker: Database) -> None:
    fill(worker, 2)
    page = run(a_seat(dashboard))
    links = [element.proto.url for element in page.get("link_button")]
    assert links == [f"/tenant/{TENANT}/audit.jsonl"]
    page.text_input(key="audit-text").set_value("a&b").run()
    links = [element.proto.url for element in page.get("link_button")]
    assert links == [f"/tenant/{TENANT}/audit.jsonl?text=a%26b", f"/tenant/{TENANT}/audit.jsonl"]
