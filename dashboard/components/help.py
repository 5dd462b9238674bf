"""The help of each page: its section of docs/dashboard.md, in a dialog, in the version of the running product."""

import re
from functools import cache
from pathlib import Path

import streamlit as st

_DOCUMENT = Path(__file__).parents[1] / "assets" / "dashboard.md"
"""A symbolic link to the document, because a wheel contains only the files of packages."""

_IMAGES = re.compile(r"^\| \| \|\n\|---\|---\|\n(?:\|.*!\[.*\n)+", re.MULTILINE)
_REFERENCE = re.compile(r"\s\(\[[^\]]*\]\((?!https:)[^)]*\)\)")
_LINK = re.compile(r"\[([^\]]*)\]\((?!https:)[^)]*\)")


def draw_help(title: str, documentation: str | None) -> None:
    """Draw the button of the help of the page `title`; `documentation` is the address of the published document."""
    if st.button(f"Help: {title}", icon=":material/help:", key="help", width="stretch"):
        st.dialog(f"Help: {title}", width="large")(_draw)(title, documentation)


def _draw(title: str, documentation: str | None) -> None:
    st.markdown(section(title))
    if documentation is not None:
        st.link_button("Open the documentation", f"{documentation}#{anchor(title)}", icon=":material/open_in_new:")


def anchor(title: str) -> str:
    """Return the anchor of a page's section."""
    return title.lower().replace(" ", "-")


@cache
def section(title: str) -> str:
    """Return the section of a page, without its pictures and without links to other documents.

    Raises KeyError if the document has no section of this title.
    """
    text = _DOCUMENT.read_text(encoding="utf-8")
    found = re.search(rf"^(#+) {re.escape(title)}\n", text, re.MULTILINE)
    if found is None:
        raise KeyError(title)
    rest = text[found.end() :]
    end = re.search(rf"^#{{1,{len(found[1])}}} ", rest, re.MULTILINE)
    own = _IMAGES.sub("", rest if end is None else rest[: end.start()])
    return _LINK.sub(r"\1", _REFERENCE.sub("", own)).strip()
