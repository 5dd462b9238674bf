"""Who sent this: Standard Webhooks, symmetric, with up to two active secrets.

What is signed is the message id, the time stamp and the raw body, nothing else: no other header may decide anything
(see `envelopes`). The library compares in constant time; what it raises for input that is not even a signature
(ValueError, binascii.Error, UnicodeDecodeError) means the same as a wrong one and stops here.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from standardwebhooks import Webhook, WebhookVerificationError

from core.errors.platform import SettingsInvalid
from core.errors.requests import SignatureRefused, StaleTimestamp

TOLERANCE_SECONDS = 300
"""Standard Webhooks' replay window; within it the event id makes a second delivery a duplicate."""
MOST_SECRETS = 2

_ID = "webhook-id"
_TIMESTAMP = "webhook-timestamp"
_SIGNATURE = "webhook-signature"
_MESSAGE_ID = re.compile(r"[!-~]{1,200}")
_LEAST_BASE64 = 22
_SECONDS = re.compile(r"[0-9]{1,12}")


def _now() -> datetime:
    return datetime.now(UTC)


def open_secret(secret: str) -> Webhook:
    """Return the signer and verifier for one secret (`whsec_` and base64, at least 16 bytes of it).

    Raises:
        SettingsInvalid: it is not one; the text never quotes it.
    """
    refusal = SettingsInvalid(
        "a webhook secret is not base64 of at least 16 bytes", "write it as whsec_ followed by base64, one a line"
    )
    if len(secret.removeprefix("whsec_")) < _LEAST_BASE64:
        raise refusal
    try:
        return Webhook(secret)
    except Exception:  # noqa: BLE001 - the library raises several kinds, and their texts may quote the secret
        raise refusal from None


class SignatureCheck:
    def __init__(self, secrets: Sequence[str], clock: Callable[[], datetime] = _now) -> None:
        if not 1 <= len(secrets) <= MOST_SECRETS:
            raise SettingsInvalid(
                f"{len(secrets)} webhook secrets are active", "keep one, or two while the marketplace changes over"
            )
        self._webhooks = tuple(open_secret(secret) for secret in secrets)
        self._clock = clock

    def verify(self, headers: Mapping[str, str], body: bytes) -> str:
        """Return the message id of a delivery that one of the secrets signed within the last five minutes.

        Args:
            headers: with lower-case names.
            body: as it came, before anything parsed it.

        Raises:
            SignatureRefused: a header is missing or malformed, or no secret fits.
            StaleTimestamp: it was signed, or says so, more than five minutes ago or ahead.
        """
        message_id, stamp = headers.get(_ID, ""), headers.get(_TIMESTAMP, "")
        if not _MESSAGE_ID.fullmatch(message_id) or not _SECONDS.fullmatch(stamp):
            raise SignatureRefused
        if abs(self._clock().timestamp() - int(stamp)) > TOLERANCE_SECONDS:
            raise StaleTimestamp
        signed = {_ID: message_id, _TIMESTAMP: stamp, _SIGNATURE: headers.get(_SIGNATURE, "")}
        # Every secret is tried whatever the first one says: how long it takes does not tell which one is current.
        if not any([_fits(webhook, signed, body) for webhook in self._webhooks]):  # noqa: C419 - see above
            raise SignatureRefused
        return message_id


def _fits(webhook: Webhook, signed: dict[str, str], body: bytes) -> bool:
    try:
        webhook.verify(body, signed, json_parse=False)
    except (WebhookVerificationError, ValueError):
        # ValueError covers binascii.Error, UnicodeError and a signature without its version.
        return False
    return True
