"""The integration guides as written: their blocks, with the example's addresses and folders changed and no more."""

import re
from collections.abc import Mapping

from tests.stories.stack import ROOT


def blocks(page: str, language: str, changed: Mapping[str, str]) -> list[str]:
    """Return the blocks of a language on a page under docs; each text of `changed` has to be there."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    for before, after in changed.items():
        assert before in text, f"{page} does not say {before}"
        text = text.replace(before, after)
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def words(command: str) -> list[str]:
    """Return what comes after `openkcm` in a command of a guide."""
    program, *rest = command.replace("\\\n", " ").split()
    assert program == "openkcm"
    return rest
