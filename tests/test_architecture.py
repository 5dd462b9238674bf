"""The import contracts and the rules for source files hold, and each of them can fail."""

import secrets
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from scripts import house_rules as architecture
from scripts.house_rules import RULES, Source, read_tree

ROOT = Path(__file__).parents[1]
SOURCES = read_tree(ROOT)
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
VIOLATIONS = {
    "A package imports from the layers below it": ("vault", "database"),
    "Settings are read by processes and passed down as values": ("activities", "config"),
    "Workflows do no I/O": ("workflows", "vault.transit.tenant_keys"),
    "No workflow holds a Temporal client": ("workflows", "workflows.client.workflow_client"),
    "Callers of a workflow use the workflow client only": ("marketplace", "workflows.tenants"),
    "The crypto service runs no workflow": ("crypto_service", "activities"),
    "The marketplace endpoint has no access to a key server": ("marketplace", "vault.transit.tenant_keys"),
    "The dashboard has no access to a key server": ("dashboard", "vault.transit.tenant_keys"),
    "The command runs no activity": ("cli", "activities"),
    "The client": ("openkcm/contract", "openkcm.sdk.client"),
    "The server does not import the customer's part of the client": ("core", "openkcm.agent.agent"),
}
"""Contract → an import that violates it. For a library the importer is `config`."""


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_repository_complies_with(rule):
    assert list(rule(SOURCES)) == []


def test_every_package_is_in_the_contracts():
    packages = {source.package for source in SOURCES if "/" in source.path}
    assert packages - {"tests", "scripts"} == set(CONTRACTS["root_packages"])


@pytest.mark.integration  # starts a process
def test_every_contract_about_imports_can_be_broken(tmp_path):
    for package in CONTRACTS["root_packages"]:
        folder = ROOT / "client" / "src" / package if package == "openkcm" else ROOT / package
        shutil.copytree(folder, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__", "results"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for contract in CONTRACTS["contracts"]:
        importer, imported = VIOLATIONS.get(contract["name"]) or ("config", contract["protected_modules"][0])
        (tmp_path / importer / f"breach_{secrets.token_hex(4)}.py").write_text(f"def late():\n    import {imported}\n")
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as main; main()", "--no-cache"]
    report = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False, text=True).stdout
    assert f"Contracts: 0 kept, {len(CONTRACTS['contracts'])} broken." in report, report


SEEDED = [
    ("purity", "core/names.py", "import time\n"),
    ("purity", "core/names.py", "import requests\n"),
    ("purity", "core/names.py", "x = uuid4()\n"),
    ("purity", "core/names.py", "x = datetime.now()\n"),
    ("purity", "core/names.py", "x = open('file')\n"),
    ("maps", "vault/__init__.py", ""),
    ("maps", "vault/__init__.py", '"""The map."""\n\nDEFAULT = 1\n'),
    ("sizes", "vault/transit/tenant_keys.py", "x = 1\n" * (architecture.LONGEST_FILE + 1)),
    ("suppressions", "vault/transit/tenant_keys.py", "x = 1  # noqa\n"),
    ("suppressions", "vault/transit/tenant_keys.py", "x = 1  # noqa: S608\n"),
    ("suppressions", "vault/transit/tenant_keys.py", "x = 1  # type: ignore # reason\n"),
    ("suppressions", "vault/transit/tenant_keys.py", "x = 1  # type: ignore[misc]\n"),
    ("remedies", "core/errors/platform.py", 'hint = "check that it runs: make status"\n'),
    ("remedies", "cli/setup.py", 'hint = f"{1} python -m devstack doctor"\n'),
]


@pytest.mark.parametrize(("rule", "path", "text"), SEEDED)
def test_seeded_violation_is_found(tmp_path, rule, path, text):
    file = tmp_path / path
    file.parent.mkdir(parents=True)
    file.write_text(text)
    (found,) = getattr(architecture, rule)(read_tree(tmp_path))
    assert found.startswith(f"{path}:")


def test_allowed_sources_are_not_reported():
    allowed = [
        Source(
            "vault/transit/tenant_keys.py",
            "import time\nx = 1  # noqa: S608, S603 - a constant\ny = 2  # type: ignore[misc]  # why\n",
        ),
        Source("core/names.py", "import re\nimport pydantic\nfrom core import errors\n"),
        Source("devstack/doctor.py", 'hint = "make up"\n'),
        Source("config/secrets.py", '"""Secrets; `make up` creates them."""\n'),
    ]
    assert [finding for rule in RULES for finding in rule(allowed)] == []
