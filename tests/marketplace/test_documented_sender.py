"""The sender in docs/marketplace-events.md sends an event that the endpoint accepts."""

import re
import urllib.request
from pathlib import Path
from types import SimpleNamespace

from tests.marketplace.conftest import CURRENT

PAGE = (Path(__file__).parents[2] / "docs" / "marketplace-events.md").read_text(encoding="utf-8")


async def test_documented_sender_is_accepted(endpoint, monkeypatch, tmp_path: Path):
    sent: list[urllib.request.Request] = []

    def send(request: urllib.request.Request) -> SimpleNamespace:
        sent.append(request)
        return SimpleNamespace(status=202)

    (tmp_path / "webhook-secrets").write_text(f"{CURRENT}\n", encoding="ascii")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(urllib.request, "urlopen", send)
    [program] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(program, {})  # noqa: S102 - the program of the page
    [request] = sent
    answer = await endpoint.client.post("/v1/events", content=request.data, headers=dict(request.header_items()))
    assert answer.status_code == 202, answer.text
