"""The marketplace endpoint as its own sender sees it."""

import json
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx2
from standardwebhooks import Webhook

from core.errors.platform import ComponentFailed, SettingsInvalid
from openkcm.errors import OpenKcmError

_REQUEST_SECONDS = 15.0


class EnableRefused(OpenKcmError):
    """The endpoint refused the event or the look; carries the endpoint's own code and hint."""

    def __init__(self, code: str, message: str, hint: str) -> None:
        super().__init__(message, hint)
        self.code = code  # type: ignore[misc] # the answer brings its code with it


def _utc_now() -> datetime:
    return datetime.now(UTC)


class MarketplaceClient:
    """Safe to share between threads."""

    def __init__(self, url: str, webhook_secret: str, token: str, now: Callable[[], datetime] = _utc_now) -> None:
        """Take the endpoint's address, a secret it knows (`whsec_` and base64) and the token for its status.

        Raises:
            SettingsInvalid: the secret is not one.
        """
        try:
            self._signer = Webhook(webhook_secret)
        except Exception:  # noqa: BLE001 - the library raises several kinds, and their texts may quote the secret
            raise SettingsInvalid("the first webhook secret is not base64", "write it as whsec_ and base64") from None
        self._now = now
        # No proxy from the environment: the endpoint is named by the settings, in the embedded stack on loopback.
        self._client = httpx2.Client(
            base_url=url,
            headers={"authorization": f"Bearer {token}"},
            timeout=_REQUEST_SECONDS,
            trust_env=False,
        )

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def enable(self, tenant_id: str, organization: str, region: str) -> None:
        """Send the event under an id of its own: the tenant's workflow ignores an enable of what is enabled.

        Raises:
            EnableRefused: the endpoint's own refusal.
            ComponentFailed: it does not answer.
        """
        now = self._now()
        event = {
            "event": "service_enabled",
            "customer": tenant_id,
            "organization": organization,
            "service": "openkcm",
            "region": region,
            "timestamp": now.isoformat(),
        }
        body, event_id = json.dumps(event), f"msg_{uuid.uuid4().hex}"
        headers = {
            "content-type": "application/json",
            "webhook-id": event_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": self._signer.sign(event_id, now, body),
        }
        self._ask("POST", "/v1/events", content=body, headers=headers)

    def status(self, tenant_id: str) -> dict[str, Any]:
        """Return the endpoint's status document of a tenant; raises as `enable`, `tenant_unknown` among the codes."""
        return self._ask("GET", f"/v1/tenants/{tenant_id}")

    def _ask(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        try:
            answer = self._client.request(method, path, **request)
            document = answer.json()
        except (httpx2.HTTPError, ValueError):
            raise ComponentFailed(
                "the marketplace endpoint does not answer", "see whether it runs: make status"
            ) from None
        if not isinstance(document, dict):
            raise ComponentFailed("the marketplace endpoint answers something else", "see what runs there: make status")
        if not answer.is_success:
            raise EnableRefused(
                str(document.get("code", "refused")),
                str(document.get("detail", f"the endpoint answered {answer.status_code}")),
                str(document.get("hint", "")),
            )
        return document
