"""The marketplace's callback: signed CloudEvents to the address in the platform's settings."""

import asyncio
import ssl
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import httpx2
from standardwebhooks import Webhook

from activities.notifications.events import signed_request
from core.errors.platform import NotificationUndelivered, SettingsInvalid
from core.notifications import Notification

_CALLBACK_SECONDS = 5.0
"""Time of one attempt, from the resolution of the name to the end of the response."""
_CONNECT_PART = 0.4
"""Part of an attempt for its connection, and as much again for the TLS handshake: both end before the attempt."""
_LONGEST_RESPONSE = 65_536

Result = TypeVar("Result")


def _now() -> datetime:
    return datetime.now(UTC)


class CallbackSender:
    """Posts structured CloudEvents, signed as Standard Webhooks describes. Safe to share between threads.

    During a replacement of the secret there are two, and a message has a signature with each. So its receiver can
    change to the new secret at any time.
    """

    def __init__(
        self,
        url: str,
        secrets: Sequence[str],
        base_url: str,
        clock: Callable[[], datetime] = _now,
        seconds: float = _CALLBACK_SECONDS,
    ) -> None:
        """Each secret is `whsec_` and base64; `base_url` is the dashboard's address; `seconds` limit an attempt."""
        try:
            self._signers = [Webhook(secret) for secret in secrets]
        except Exception:  # noqa: BLE001 - the library raises several kinds, and their texts may quote the secret
            raise SettingsInvalid("the callback secret is not base64", "write it as whsec_ and base64") from None
        self._url = url
        self._base_url = base_url
        self._clock = clock
        self._seconds = seconds
        # Timeouts of httpx2 are for one read. An event loop can cancel a whole request, also while a name is resolved.
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="callback", daemon=True)
        self._thread.start()
        # Redirects are not followed: a signed message goes only to the configured address.
        # httpx2 keeps the connection of a cancelled handshake open for as long as the receiver does.
        timeout = httpx2.Timeout(seconds, connect=_CONNECT_PART * seconds)
        # No proxy of the environment gets a message or its address. The context still trusts a CA in SSL_CERT_FILE.
        self._client = httpx2.AsyncClient(
            timeout=timeout, follow_redirects=False, trust_env=False, verify=ssl.create_default_context()
        )

    def send(self, notification: Notification) -> None:
        body, headers = signed_request(notification, self._base_url, self._signers, self._clock())
        try:
            status = self._run(self._post(body, headers))
        except (TimeoutError, httpx2.HTTPError, httpx2.InvalidURL):
            raise NotificationUndelivered("the callback does not respond") from None
        if not 200 <= status < 300:
            raise NotificationUndelivered(f"the callback responded with {status}")

    def close(self) -> None:
        """Close the connections; nothing can be sent afterwards."""
        self._run(self._client.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _post(self, body: bytes, headers: Mapping[str, str]) -> int:
        """Return the status. The body is read only so that the connection can be used again."""
        async with (
            asyncio.timeout(self._seconds),
            self._client.stream("POST", self._url, content=body, headers=headers) as answer,
        ):
            length = 0
            async for chunk in answer.aiter_raw():
                length += len(chunk)
                if length > _LONGEST_RESPONSE:
                    break
            return answer.status_code

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()
