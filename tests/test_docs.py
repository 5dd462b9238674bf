"""The documents are correct: generated parts are current, and the names in them exist."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from cli import __main__ as operators
from database.schema import lint as gate
from devstack import __main__ as development
from devstack.doctor import CRYPTO_PROBLEMS, PINNED
from devstack.servers.temporal import SEARCH_ATTRIBUTES
from openkcm.cli import __main__ as client
from openkcm.sdk import client as sdk
from scripts.generate_docs import architecture_page, error_classes, exported_metrics, generated, rows
from tests.benchmarks.report import PAGE, render_page

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
CURRENT_PAGES = [page for page in PAGES if page.name != "upgrading.md"]
"""Without the page that lists former names."""
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FOLDERS = {
    *PROJECT["tool"]["importlinter"]["root_packages"],
    "tests",
    "scripts",
    "docs",
    "deploy",
    "requirements",
    ".ci",
}
SKIPPED = {"build", "__pycache__", "results"}

LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)")
MENTION = re.compile(r"`([\w.-]+/[\w./-]*)`")
COMMAND = re.compile(r"(?:`|^)(?:\.venv/bin/)?(openkcm|openkcmctl|python -m devstack) ([a-z][^`\n]*)", re.MULTILINE)
METRIC = re.compile(r"\bopenkcm_\w+")
CLAIMS = {"openkcm_tenant", "openkcm_service", "openkcm_roles"}  # claims of tokens, not metrics
CLASS = re.compile(r"`([A-Z][a-z]+(?:[A-Z][a-z]+)+)`")
POINTER = re.compile(r"(docs/[\w/-]+\.md)(?:#([\w-]+))?")
MAKE = re.compile(r"(?:^|`)make ([a-z-]+)", re.MULTILINE)

# Written in parts, so that this file does not contain what it forbids.
FORBIDDEN = [
    re.compile(pattern)
    for pattern in (
        "py" + r"pi\.org",
        "python" + "hosted",
        "registry" + r"\.npm",
        "deb" + r"\.debian",
        "--(extra-)?index" + "-url[ =]",
        "/wo" + "rk/(main|shared)",
        r"(?<![\w.])/ro" + "ot/",
        "/ho" + r"me/[a-z]+/",
        "/opt" + "/wheels",
        r"(?<![\w.])/tmp/" + r"[a-z]\w*/",
    )
]


def texts():
    for path in sorted(ROOT.rglob("*")):
        parts = path.relative_to(ROOT).parts
        hidden = any(part.startswith(".") and part not in {".ci", ".gitignore"} for part in parts)
        if hidden or SKIPPED & set(parts) or parts[0].endswith(".egg-info") or not path.is_file():
            continue
        try:
            yield path, path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue


@pytest.mark.parametrize("path", generated(), ids=lambda path: path.name)
def test_generated_document_is_current(path):
    assert path.read_text(encoding="utf-8") == generated()[path], "run `make docs`"


def test_page_of_the_benchmarks_is_that_of_their_stored_results():
    assert PAGE.read_text(encoding="utf-8") == render_page()


def test_change_in_a_generated_region_is_detected():
    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    drifted = page.replace("requested --> provisioning: provision", "requested --> active: provision")
    assert drifted != page
    assert architecture_page(drifted) == page


def test_a_cell_cannot_break_its_table():
    assert rows(("head",), ("a|b",)) == "| head |\n|---|\n| a\\|b |\n"


def test_every_error_code_is_documented_once():
    page = (ROOT / "docs/errors.md").read_text(encoding="utf-8")
    codes = [error.code for error in error_classes()]
    assert all(page.count(f"| `{code}` |") == 1 for code in codes)


@pytest.mark.parametrize(
    "page", [*CURRENT_PAGES, ROOT / "devstack/doctor.py", ROOT / "devstack/stack/components.py"], ids=str
)
def test_every_metric_that_a_page_or_a_health_check_names_is_exported(page):
    text, known = page.read_text(encoding="utf-8"), CLAIMS | {name for name, *_ in exported_metrics()}
    if page.name == "upgrading.md":  # its rows begin with the former name, and no name has the suffix of the exporter
        text = re.sub(r"^\| `openkcm_\w+` \|", "|", text, flags=re.MULTILINE)
        known |= {name.removesuffix("_total") for name in known}
    assert set(METRIC.findall(text)) <= known


def headings(page):
    """Return the anchors of a page's headings, in GitHub's format."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def pointers():
    """Yield (file, page, anchor) for each page that a text of the product names; users do not see docstrings."""
    packages = PROJECT["tool"]["importlinter"]["root_packages"]
    for path in (path for package in packages for path in sorted((ROOT / package).rglob("*.py"))):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        for node in nodes:
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                for page, anchor in POINTER.findall(node.value):
                    yield str(path.relative_to(ROOT)), page, anchor


def test_every_hint_names_an_existing_section():
    found = list(pointers())
    assert len(found) > 30
    for file, page, anchor in found:
        sections = headings(ROOT / page)
        # A guide of the dashboard names another guide as a whole, and a page with one table has no sections.
        whole = not anchor and (file == "dashboard/services/setup_guides.py" or len(sections) == 1)
        assert whole or anchor in sections, f"{file}: {page}#{anchor}"


def test_runbook_explains_every_finding_of_doctor():
    page = (ROOT / "docs/runbook.md").read_text(encoding="utf-8")
    attributes = [f"--name {name} --type {kind}" for name, kind in SEARCH_ATTRIBUTES.items()]
    expected = [*(f"`{rule}`" for rule in gate.RULES), *attributes, *CRYPTO_PROBLEMS.values(), *PINNED.values()]
    assert [text for text in expected if text.strip(".") not in page] == []


@pytest.mark.parametrize("page", ["crypto-api.md", "microservices.md"])
def test_every_class_that_a_page_of_the_client_names_exists(page):
    assert set(CLASS.findall((ROOT / "docs" / page).read_text(encoding="utf-8"))) <= set(sdk.__all__)


def test_every_error_of_the_client_is_on_its_page():
    page = (ROOT / "docs/crypto-api.md").read_text(encoding="utf-8")
    assert [kind for kind in sdk.ClientError.__subclasses__() if f"| `{kind.__name__}` |" not in page] == []


TARGETS = re.findall(r"^([a-z-]+):(.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_path_and_make_target_of_a_page_exists(page):
    text = page.read_text(encoding="utf-8")
    assert [link for link in LINK.findall(text) if not (page.parent / link).exists()] == []
    paths = [mention for mention in MENTION.findall(text) if mention.partition("/")[0] in FOLDERS]
    assert [path for path in paths if not (ROOT / path).exists()] == []
    assert set(MAKE.findall(text)) <= {name for name, _ in TARGETS}


def test_every_make_target_has_a_help_line():
    assert [name for name, rest in TARGETS if "-" not in name and "## " not in rest] == []


def test_nothing_names_a_registry_or_a_folder_of_one_machine():
    found = [
        f"{path.relative_to(ROOT)}: {pattern.pattern}"
        for path, text in texts()
        for pattern in FORBIDDEN
        if pattern.search(text)
    ]
    assert found == []


LOCKS = {name: (ROOT / f"requirements/{name}.lock").read_text() for name in ("installer", "runtime", "test")}


def test_lock_pins_every_package_by_hash_and_contains_no_address():
    for name, text in LOCKS.items():
        entries = [entry for entry in re.split(r"\n(?=\S)", text) if entry.strip()]
        assert entries, name
        assert [entry for entry in entries if "==" not in entry or "--hash=sha256:" not in entry] == [], name
        assert not [mark for mark in ("://", "@") if mark in text], name


def test_tested_and_runtime_versions_are_equal():
    runtime, test = (set(re.findall(r"^(\S+==\S+)", LOCKS[name], re.MULTILINE)) for name in ("runtime", "test"))
    assert runtime
    assert runtime <= test


def test_lock_contains_every_dependency_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    expected = {re.split(r"[\[<>=]", one)[0] for one in named} - {"openkcm"}  # it is in this repository
    locked = LOCKS["test"].lower()
    assert "temporalio" in expected
    assert [name for name in expected if f"\n{name.lower()}==" not in f"\n{locked}"] == []


def commands():
    """Return every command that a page shows: its program, and its words without options and values."""
    found = set()
    for page in CURRENT_PAGES:
        for program, line in COMMAND.findall(page.read_text(encoding="utf-8")):
            words = line.split()
            grouped = program == "openkcmctl" or words[0] == "audit"
            found.add((program, *words[: 1 + grouped]))
    return sorted(found)


def test_every_documented_command_exists(capsys):
    programs = {"openkcm": client.main, "openkcmctl": operators.main, "python -m devstack": development.main}
    for program, *words in commands():
        assert programs[program]([*words, "--help"]) == 0, words
        assert f"Usage: {program} {words[0]}" in capsys.readouterr().out


@pytest.mark.integration  # starts a process
def test_documentation_site_builds(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, check=False, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    assert (tmp_path / "index.html").exists()
