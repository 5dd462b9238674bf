"""Client of the marketplace endpoint, with the rights of a marketplace."""

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
    """The endpoint rejected the event or the status request; contains the endpoint's code and hint."""

    def __init__(self, code: str, message: str, hint: str) -> None:
        super().__init__(message, hint)
        self.code = code  # type: ignore[misc] # the code of the response


def _utc_now() -> datetime:
    return datetime.now(UTC)


class MarketplaceClient:
    """Thread-safe."""

    def __init__(self, url: str, webhook_secret: str, token: str, now: Callable[[], datetime] = _utc_now) -> None:
        """Take the endpoint's address, one of its webhook secrets (`whsec_` and base64) and its status token.

        Raises:
            SettingsInvalid: the secret is invalid.
        """
        try:
            self._signer = Webhook(webhook_secret)
        except Exception:  # noqa: BLE001 - the library raises several types, whose texts may quote the secret
            raise SettingsInvalid("the first webhook secret is not base64", "write it as whsec_ and base64") from None
        self._now = now
        # Use no proxy from the environment: the settings name the endpoint, in the embedded stack on loopback.
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
        """Send the event with a new id: the tenant's workflow ignores an enable event for an enabled tenant.

        Raises:
            EnableRefused: the endpoint rejected the event.
            ComponentFailed: the endpoint does not respond.
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
        self._request("POST", "/v1/events", content=body, headers=headers)

    def status(self, tenant_id: str) -> dict[str, Any]:
        """Return the endpoint's status document of a tenant; raises as `enable`, also for `tenant_unknown`."""
        return self._request("GET", f"/v1/tenants/{tenant_id}")

    def _request(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        try:
            answer = self._client.request(method, path, **request)
            document = answer.json()
        except (httpx2.HTTPError, ValueError):
            raise ComponentFailed(
                "the marketplace endpoint does not answer", "check whether it runs: make status"
            ) from None
        if not isinstance(document, dict):
            raise ComponentFailed(
                "the server at the marketplace address is not the endpoint",
                "check which server runs there: make status",
            )
        if not answer.is_success:
            raise EnableRefused(
                str(document.get("code", "refused")),
                str(document.get("detail", f"the endpoint answered {answer.status_code}")),
                str(document.get("hint", "")),
            )
        return document
