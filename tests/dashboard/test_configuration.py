"""What Streamlit is told in the file beside the script."""

import tomllib
from pathlib import Path

import dashboard

FILE = Path(dashboard.__file__).parent / ".streamlit" / "config.toml"
TOLD = tomllib.loads(FILE.read_text(encoding="utf-8"))


def test_nobody_else_is_told_or_let_in() -> None:
    assert TOLD["browser"]["gatherUsageStats"] is False
    assert TOLD["server"]["enableAgentApi"] is False
    assert TOLD["server"]["enableStaticServing"] is False
    assert TOLD["client"]["showErrorDetails"] == "none"


def test_nothing_is_fetched_from_the_network() -> None:
    assert "http" not in FILE.read_text(encoding="utf-8")
