"""The Audit page as Streamlit runs it, on a real database."""

import json

import pytest
from streamlit.testing.v1 import AppTest

from core.tenants.roles import PersonRole
from dashboard.page_context import PageContext
from database.connection.database import Database
from openkcm.contract.audit_events import AuditName
from openkcm.verification.public_keys import PublicKeys
from tests.dashboard.scene import shown, text
from tests.dashboard.seats import TENANT, a_page_context
from tests.database.builders import an_archive, an_audit_event
from tests.database.fixtures import Field
from tests.database.signing import SIGNER, Signer, sign_head

HOSTILE = "[click](https://evil.example) ![x](https://evil.example/x.png) <script>alert(1)</script>"


def draw(context: PageContext) -> AppTest:
    return shown("audit", context)


def fill(worker: Database, number: int, tenant: str = TENANT, **changed: object) -> None:
    with worker.tenant_tx(tenant) as tx:
        tx.audit.append_all(
            [an_audit_event(f"e{n}", **{"subject": f"object {n}"} | changed) for n in range(1, number + 1)]
        )


def numbers(page: AppTest) -> list[int]:
    return [] if not page.dataframe else [int(seq) for seq in page.dataframe[0].value["seq"]]


def test_an_empty_stream_explains_when_records_appear(dashboard: Database) -> None:
    page = draw(a_page_context(dashboard))
    assert page.title[0].value == "Audit"
    assert "No records" in text(page)
    assert "The first record appears" in text(page)
    assert not page.dataframe


def test_the_newest_records_are_listed_with_the_state_of_the_chain(dashboard: Database, worker: Database) -> None:
    fill(worker, 50)
    sign_head(worker, TENANT)
    fill(worker, 60)
    fill(worker, 1, "beta", subject="of another")
    page = draw(a_page_context(dashboard))
    assert numbers(page) == list(range(60, 10, -1))
    assert [metric.value for metric in page.metric] == ["60", "50", "Verified"]
    assert "Signed up to record 50" in text(page)
    assert "10 newer records will be signed within a minute" in text(page)
    assert "Hash links of 50 shown records" in text(page)
    assert page.button(key="audit-newer").disabled
    assert set(page.dataframe[0].value["what"]) == {"Tenant key created"}
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
    assert (len(page.dataframe), len(page.button), len(page.text_input), len(page.metric)) == (0, 0, 0, 0)


def test_paging_shows_new_records_only_on_the_newest_page(dashboard: Database, worker: Database) -> None:
    fill(worker, 120)
    page = draw(a_page_context(dashboard))
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
    page = draw(a_page_context(dashboard))
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
    links = [element.proto.url for element in page.get("link_button")]
    assert links == [f"/tenant/{TENANT}/audit.jsonl?outcome=refused&actor=ADA", f"/tenant/{TENANT}/audit.jsonl"]
    page.text_input(key="audit-subject").set_value("nowhere").run()
    assert numbers(page) == []
    assert "Change or remove a filter" in text(page)


def test_days_and_text_limit_the_list_and_special_characters_match_nothing(
    dashboard: Database, worker: Database
) -> None:
    fill(worker, 3)
    context = a_page_context(dashboard)
    today = context.now().date()
    page = draw(context)
    page.date_input(key="audit-since").set_value(today).run()
    assert numbers(page) == [3, 2, 1]
    for hostile in ("'; drop table okcm.tenant --", "%", "\\", "\0", "'||pg_sleep(9)||'"):
        page.text_input(key="audit-text").set_value(hostile).run()
        assert not page.exception
        assert numbers(page) == []
    page.text_input(key="audit-text").set_value("").run()
    page.date_input(key="audit-since").set_value(None).run()
    page.date_input(key="audit-until").set_value(today.replace(year=today.year - 1)).run()
    assert numbers(page) == []


def test_the_entire_stream_is_verified_on_demand(dashboard: Database, worker: Database) -> None:
    fill(worker, 60)
    sign_head(worker, TENANT)
    page = draw(a_page_context(dashboard))
    page.button(key="audit-verify").click().run()
    assert "60 records verified in" in page.success[0].value
    assert "of record 60, and its signature are verified" in page.success[0].value
    page.button(key="audit-older").click().run()
    assert "60 records verified in" in page.success[0].value


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
    page.session_state["audit-table-1"] = {"selection": {"rows": [0], "columns": [], "cells": []}}
    page.run()
    assert not page.exception
    texts = [element.value for element in page.text]
    assert [HOSTILE in text for text in texts].count(True) == 3
    raw = json.loads(next(code.value for code in page.code if code.language == "json"))
    assert (raw["subject"], raw["seq"]) == (HOSTILE, 2)
    shown_as_markup = [*page.markdown, *page.caption, *page.subheader, *page.info, *page.error]
    assert not [element for element in shown_as_markup if "evil" in str(element.value)]
