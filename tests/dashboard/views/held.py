"""Rows of a root key that the customer holds, and of its changes."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from database.interfaces import HeldKeyRow, RootKeyChangeRow
from tenancy.root_keys import RootKeyMode, RootKeyState, parse_place

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
KEY_ARN = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"


def a_held_key(health: str = "ok", since: timedelta = timedelta(seconds=20), **changed: object) -> HeldKeyRow:
    place = parse_place({"provider": "aws-kms", "key_arn": KEY_ARN})
    row = HeldKeyRow(
        "5" * 32, RootKeyMode.AWS_KMS, KEY_ARN, place, RootKeyState.CURRENT, health, NOW - since, NOW - since
    )
    return replace(row, **changed)


def a_change(state: str = "running", **changed: object) -> RootKeyChangeRow:
    ended = None if state == "running" else NOW - timedelta(hours=1)
    row = RootKeyChangeRow(
        1,
        RootKeyMode.PLATFORM,
        "root-eu-west-1",
        RootKeyMode.AWS_KMS,
        KEY_ARN,
        "5" * 32,
        state,
        1000,
        340,
        None,
        NOW - timedelta(hours=2),
        ended,
    )
    return replace(row, **changed)
