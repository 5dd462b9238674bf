"""The processes of a production installation as docs/production.md lists them, for tests of all that starts them."""

import re
from pathlib import Path

from config.settings import Settings

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "production.md").read_text(encoding="utf-8")

NAMES = {
    "worker": "worker",
    "marketplace": "marketplace",
    "crypto": "crypto service",
    "dashboard": "dashboard",
    "codec": "codec server",
}
"""The name of a process in artefacts → its name in the tables of the page."""


def section(title: str) -> str:
    """Return the text of a section of the page."""
    return PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]


def row(title: str, process: str) -> list[str]:
    """Return the cells of a process in the first table of a section that has it, without its name."""
    for line in section(title).splitlines():
        names, *cells = line.strip("| ").split(" | ")
        if process in names.split(", "):
            return cells
    raise AssertionError(f"no row for {process} in {title}")


def secrets_of(process: str) -> list[str]:
    """Return the secret files of a process (a name of the page), those for notifications included."""
    return re.findall(r"`([^`]+)`", row("Secrets", process)[0])


def module_of(process: str) -> str:
    """Return the module that starts a process (a name of the page)."""
    (module,) = re.findall(r"^`python -m ([\w.]+)`$", row("Processes", process)[0])
    return str(module)


def stop_seconds(settings: Settings) -> float:
    """Return how long a process may take after SIGTERM, by the formula of the page."""
    assert "`shutdown_notice_seconds` + 2 × `shutdown_grace_seconds` + 10 s" in section("Checks and stop")  # noqa: RUF001 - as on the page
    return settings.shutdown_notice_seconds + 2 * settings.shutdown_grace_seconds + 10
