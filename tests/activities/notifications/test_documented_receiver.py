"""The receiver of docs/notifications.md runs as written, and accepts only signed messages, each once."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import urllib3
from urllib3.exceptions import HTTPError

from activities.notifications import WebhookSender
from config.secrets import webhook_secret
from core.errors.platform import NotificationUndelivered
from core.notifications import Channel
from tests.activities.notifications.test_delivery import an_announcement
from tests.concurrency import wait_until
from tests.ports import free_port

pytestmark = pytest.mark.integration

PAGE = Path(__file__).parents[3] / "docs/notifications.md"


def test_documented_receiver_accepts_signed_messages_once_and_rejects_others() -> None:
    [code] = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    secret, port = webhook_secret(), free_port()
    url = f"http://127.0.0.1:{port}/"
    sender = WebhookSender(lambda *_: True, "https://cmk.openkcm.io")
    message = an_announcement(Channel.TARGET_WEBHOOK, target_id="a" * 32)
    environment = os.environ | {"OPENKCM_WEBHOOK_SECRET": secret, "PORT": str(port)}
    running = subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    with running:
        try:
            wait_until(lambda: _responds(url), seconds=30)
            for _ in range(2):
                assert sender.send_to(message, url, [webhook_secret(), secret]) == 204
            with pytest.raises(NotificationUndelivered, match="401"):
                sender.send_to(message, url, [webhook_secret()])
        finally:
            running.kill()
        assert running.stdout is not None
        assert running.stdout.read().splitlines() == [
            "io.openkcm.tenant.ready acme-corp-12345 OpenKCM is ready for ACME Corporation!"
        ]


def _responds(url: str) -> bool:
    """Return whether the server rejects a request without a signature."""
    try:
        return urllib3.request("POST", url, body=b"{}", timeout=5, retries=False).status == 401
    except HTTPError:
        return False
