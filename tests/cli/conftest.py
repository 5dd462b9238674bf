"""The fixtures of the commands: an operator's terminal over a database, and a worker over real servers."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from cli.__main__ import main
from tests.cli.root_key_stand import desk, secrets_folder
from tests.cli.service_stand import command, running_worker, services_field, settings

__all__ = ["command", "desk", "running_worker", "secrets_folder", "services_field", "settings"]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, dict[str, Any]]]:
    """Run a command of `openkcm audit` in this process; return its exit status and document."""

    def ask(*words: str) -> tuple[int, dict[str, Any]]:
        status = main(["audit", *words, "--json"])
        return status, json.loads(capsys.readouterr().out)

    return ask
