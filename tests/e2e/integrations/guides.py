"""The code blocks of the integration guides; only the addresses and folders of the example are replaced."""

import re
from collections.abc import Mapping

from tests.e2e.stack import ROOT


def blocks(page: str, language: str, changed: Mapping[str, str]) -> list[str]:
    """Return the code blocks of a language on a page of docs; each key of `changed` must occur on the page."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    for before, after in changed.items():
        assert before in text, f"{page} does not contain {before}"
        text = text.replace(before, after)
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def words(command: str) -> list[str]:
    """Return the arguments of an `openkcmctl` command in a guide."""
    program, *rest = command.replace("\\\n", " ").split()
    assert program == "openkcmctl"
    return rest
