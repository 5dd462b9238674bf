"""The timeline as values: order, words and the audit record of each event."""

import json
from datetime import datetime, timedelta

from core.keys.root_keys import RootKeyMode
from core.keys.rotation import RotationPhase, RotationScope
from core.tenants.approvals import Action, Approval, ApprovalState
from dashboard.keys import timeline_view as view
from dashboard.keys.timeline_view import Recorded
from database.reports import ReportRow
from database.root_keys import RootKeyChangeRow
from database.rotation import RotationRequest, RotationRow
from openkcm.contract.audit_events import AuditName, StoredRecord
from tests.dashboard.held import DAY, HOUR, NOW


def a_rotation(number: int = 1, state: str = "done", at: datetime = NOW) -> RotationRow:
    wanted = RotationRequest(tenant_key=True, services=RotationScope.ALL)
    return RotationRow(number, wanted, 1, state, RotationPhase.REWRAP, 1, 1, None, at - HOUR, at)


def a_change(state: str = "done") -> RootKeyChangeRow:
    platform, own = RootKeyMode.PLATFORM, RootKeyMode.OPENBAO
    return RootKeyChangeRow(1, platform, "root", own, "acme", "5", state, 3, 3, None, NOW - DAY, NOW - DAY)


def an_approval(state: ApprovalState) -> Approval:
    return Approval(
        "a", Action.LOCK, {}, "ada", "Ada", NOW - 3 * HOUR, state, decided_at=NOW - 2 * HOUR, decided_by="bob"
    )


def a_record(seq: int, name: AuditName, at: datetime) -> StoredRecord:
    return StoredRecord(seq, json.dumps({"name": name, "time": f"{at:%Y-%m-%dT%H:%M:%S.%fZ}"}), b"")


def test_events_of_all_kinds_are_in_the_order_of_time_and_lead_to_their_records() -> None:
    events = view.timeline(
        Recorded(
            [a_rotation()],
            [a_change()],
            [an_approval(ApprovalState.DONE)],
            [ReportRow("r", NOW, NOW, "ada", NOW - 5 * HOUR, NOW - 4 * HOUR)],
            [a_record(77, AuditName.TENANT_LOCKED, NOW - HOUR)],
        )
    )
    assert [(event.lane, event.words) for event in events] == [
        ("Rotation", "The tenant key and every service key: rotated"),
        ("Lock", "Tenant locked"),
        ("Approval", "Lock tenant (kill switch): done"),
        ("Report", "Report created"),
        ("Root key", "Changed to Your own key in your key server (HYOK)"),
    ]
    assert events[1].query == {"seq": "77"}
    assert events[0].query == {"event": "key.rotated", "from": "2026-11-25T11:59Z", "to": "2026-11-25T12:02Z"}
    assert {event.query.get("event") for event in events} == {
        "key.rotated",
        None,
        "approval.granted",
        "report.generated",
        "root_key.changed",
    }


def test_an_unfinished_or_failed_event_says_so() -> None:
    failed = view.timeline(Recorded([a_rotation(state="failed")], [a_change("failed")]))
    assert [event.words for event in failed] == [
        "The tenant key and every service key: rotation failed",
        "Change failed: to Your own key in your key server (HYOK)",
    ]
    [declined] = view.timeline(Recorded(approvals=[an_approval(ApprovalState.REFUSED)]))
    assert declined.query["event"] == "approval.declined"


def test_only_the_newest_events_are_shown() -> None:
    many = [a_rotation(number, at=NOW - timedelta(minutes=number)) for number in range(150)]
    events = view.timeline(Recorded(many))
    assert len(events) == view.MOST
    assert events[0].at == NOW
    assert len(view.options(events)["series"][0]["data"]) == view.MOST


def test_a_damaged_record_is_omitted() -> None:
    assert view.timeline(Recorded(records=[StoredRecord(1, "no json", b"")])) == ()


def test_the_accessible_name_gives_number_and_period() -> None:
    assert view.summary(()) == "No rotation, root key change, lock, approval or report is recorded."
    events = view.timeline(Recorded([a_rotation()], [a_change()]))
    assert view.summary(events) == ("2 events from 24 Nov 2026, 12:00 UTC to 25 Nov 2026, 12:00 UTC, one row per kind.")


def test_the_chart_has_a_row_for_each_kind() -> None:
    events = view.timeline(Recorded([a_rotation()]))
    assert {point["value"][1] for point in view.options(events)["series"][0]["data"]} <= set(view.LANES)
