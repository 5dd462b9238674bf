"""Batches of audit records as JSON Lines and RFC 5424 messages, and the forwarded state."""

import json

from compliance.audit.forwarding.batches import Batch, Form, ForwardedState
from openkcm.contract.audit_events import StoredRecord
from tests.core.proving import TENANT, a_stream

STATE = ForwardedState(TENANT, "https://siem.example", Form.OCSF, 7, "ab" * 32)


def test_batch_has_a_key_and_a_line_and_frame_for_each_record():
    batch = Batch(TENANT, Form.OPENKCM, a_stream(3), "kcm-1")
    assert batch.key == f"{TENANT}/1-3"
    assert [json.loads(line)["seq"] for line in batch.lines] == [1, 2, 3]
    length, _, rest = batch.frames[1].partition(b" ")
    assert len(rest) == int(length)
    assert rest.startswith(b'<110>1 2026-11-25T12:00:02.000000Z kcm-1 openkcm - crypto.used [meta sequenceId="2"] ')
    assert json.loads(Batch(TENANT, Form.OCSF, a_stream(1), "kcm-1").lines[0])["metadata"]["sequence"] == 1


def test_unsafe_fields_are_replaced_by_the_nil_value():
    fields = {"time": "a b", "name": "x\n", "outcome": "failure"}
    (frame,) = Batch(TENANT, Form.OPENKCM, [StoredRecord(1, json.dumps(fields), bytes(32))], "").frames
    assert b"<107>1 - - openkcm - - [meta" in frame


def test_state_is_read_back_and_invalid_text_gives_none():
    assert ForwardedState.read(STATE.text()) == STATE
    fields = json.loads(STATE.text())
    for change in ({"seq": -1}, {"seq": True}, {"form": "x"}, {"chain_hash": "x"}, {"to": 1}):
        assert ForwardedState.read(json.dumps(fields | change)) is None, change
    for text in ("", "[]", "{}"):
        assert ForwardedState.read(text) is None, text
