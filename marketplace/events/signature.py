"""Authentication of the sender: Standard Webhooks, symmetric, with up to two active secrets.

The signature covers the message id, the timestamp and the raw body. No other header may determine anything (see
`parse`). The library compares in constant time. It raises ValueError, binascii.Error or UnicodeDecodeError for
malformed input; these are treated like a wrong signature.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from standardwebhooks import Webhook, WebhookVerificationError

from core.errors.platform import SettingsInvalid
from core.errors.requests import SignatureRefused, StaleTimestamp

TOLERANCE_SECONDS = 300
"""The replay window of Standard Webhooks; within it, the event id identifies a repeated delivery."""

_ID = "webhook-id"
_TIMESTAMP = "webhook-timestamp"
_SIGNATURE = "webhook-signature"
_MESSAGE_ID = re.compile(r"[!-~]{1,200}")
_LEAST_BASE64 = 22
_SECONDS = re.compile(r"[0-9]{1,12}")


def _now() -> datetime:
    return datetime.now(UTC)


def parse_secret(secret: str) -> Webhook:
    """Return the signer and verifier for one secret (`whsec_` and base64, at least 16 bytes).

    Raises:
        SettingsInvalid: it is malformed; the message never quotes it.
    """
    invalid = SettingsInvalid(
        "a webhook secret is not base64 of at least 16 bytes", "write whsec_ followed by base64, one secret per line"
    )
    if len(secret.removeprefix("whsec_")) < _LEAST_BASE64:
        raise invalid
    try:
        return Webhook(secret)
    except Exception:  # noqa: BLE001 - the library raises several types, and their texts may quote the secret
        raise invalid from None


class SignatureCheck:
    def __init__(self, secrets: Sequence[str], clock: Callable[[], datetime] = _now) -> None:
        self._webhooks = tuple(parse_secret(secret) for secret in secrets)
        self._clock = clock

    def verify(self, headers: Mapping[str, str], body: bytes) -> str:
        """Return the message id of a delivery that one of the secrets signed within the last five minutes.

        Args:
            headers: with lower-case names.
            body: as received, before any parsing.

        Raises:
            SignatureRefused: a header is missing or malformed, or no secret matches.
            StaleTimestamp: the timestamp is more than five minutes in the past or the future.
        """
        message_id, stamp = headers.get(_ID, ""), headers.get(_TIMESTAMP, "")
        if not _MESSAGE_ID.fullmatch(message_id) or not _SECONDS.fullmatch(stamp):
            raise SignatureRefused
        if abs(self._clock().timestamp() - int(stamp)) > TOLERANCE_SECONDS:
            raise StaleTimestamp
        signed = {_ID: message_id, _TIMESTAMP: stamp, _SIGNATURE: headers.get(_SIGNATURE, "")}
        # Try every secret, even after a match: the duration must not reveal which secret is current.
        if not any([_verifies(webhook, signed, body) for webhook in self._webhooks]):  # noqa: C419 - see above
            raise SignatureRefused
        return message_id


def _verifies(webhook: Webhook, signed: dict[str, str], body: bytes) -> bool:
    try:
        webhook.verify(body, signed, json_parse=False)
    except (WebhookVerificationError, ValueError):
        # ValueError covers binascii.Error, UnicodeError and a signature without its version.
        return False
    return True
