"""The examples of docs/crypto-api.md: its Python runs unchanged, and the server answers its requests as shown."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from crypto_service.https.problems import STATUS
from crypto_service.https.routes import ENDPOINTS
from tests.crypto_service.https.stage import Stage
from tests.crypto_service.https.wire import Wire, post

pytestmark = pytest.mark.integration

_PAGE = (Path(__file__).parents[3] / "docs" / "crypto-api.md").read_text()
_PYTHON = re.findall(r"```python\n(.*?)```", _PAGE, re.DOTALL)
_EXCHANGES = re.findall(r"```http\nPOST (\S+)\n(.*?)```\n```json\n(.*?)```", _PAGE, re.DOTALL)
_LEFT_OUT = "…"


def _filled(request: dict[str, Any], seen: dict[str, str]) -> dict[str, Any]:
    """Insert values of earlier responses where the page omits them."""
    return {
        name: seen[name] if isinstance(value, str) and _LEFT_OUT in value else value for name, value in request.items()
    }


def _matches(shown: Any, answered: Any) -> bool:
    if isinstance(shown, dict):
        return set(shown) == set(answered) and all(_matches(shown[name], answered[name]) for name in shown)
    if isinstance(shown, list):
        return len(shown) == len(answered) and all(map(_matches, shown, answered))
    if isinstance(shown, str) and _LEFT_OUT in shown:
        return isinstance(answered, str) and answered.startswith(shown.partition(_LEFT_OUT)[0])
    return bool(shown == answered)


@pytest.mark.parametrize("code", _PYTHON)
def test_python_examples_run(stage: Stage, code: str):
    exec(compile(code, "docs/crypto-api.md", "exec"), {"folder": stage.folder})  # noqa: S102 - our own page


def test_request_examples_get_the_shown_responses(stage: Stage):
    seen: dict[str, str] = {}
    assert len(_EXCHANGES) == 7
    with Wire(stage.dial()) as wire:
        for path, request, shown in _EXCHANGES:
            wire.send(post(path, json.dumps(_filled(json.loads(request), seen)).encode()))
            answered = wire.reply().json
            assert _matches(json.loads(shown), answered), path
            seen |= {name: value for name, value in answered.items() if isinstance(value, str)}


def test_page_lists_every_path_and_every_code_with_status():
    assert [endpoint.path for endpoint in ENDPOINTS if endpoint.path not in _PAGE] == []
    rows = re.findall(r"^\| (\d{3}) \| (.*?) \|", _PAGE, re.MULTILINE)
    listed = {(int(status), code) for status, codes in rows for code in re.findall(r"`(\w+)`", codes)}
    assert {(int(status), error.code) for error, status in STATUS.items()} <= listed
