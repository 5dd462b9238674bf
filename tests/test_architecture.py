"""The import ladder and the house rules hold, and each of them can fail."""

import sys
from pathlib import Path

import pytest

from tools import architecture
from tools.architecture import EXCEPTIONS, RULES, RUNGS, Source, purity, read_tree

ROOT = Path(__file__).parents[1]
SOURCES = read_tree(ROOT)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_repository_keeps(rule):
    assert list(rule(SOURCES)) == []


def test_tenancy_is_pure():
    assert list(purity(SOURCES, sys.stdlib_module_names)) == []


def test_every_package_stands_on_the_ladder():
    packages = {source.package for source in SOURCES if "/" in source.path}
    assert packages - {"tests", "tools"} <= RUNGS.keys()


def test_no_exception_is_without_use():
    excepted = {who for who, _ in EXCEPTIONS}
    used = {
        (who, name.partition(".")[0])
        for source in SOURCES
        if {source.module, source.package} & excepted  # reading the imports of all files takes seconds
        for _, name in source.imports()
        for who in (source.module, source.package)
    }
    written = {package for package in RUNGS if (ROOT / package / "__init__.py").exists()}
    assert {key for key in EXCEPTIONS if key not in used and key[1] in written and key[0] in written} == set()


SEEDED = [
    ("ladder", "tenancy/ids.py", "import config.settings\n"),
    ("ladder", "vault/transit.py", "from database.interfaces import TenantRow\n"),
    ("ladder", "database/tenants.py", "from config import settings\n"),
    ("ladder", "workflows/tenant.py", "from vault.interfaces import TenantKeys\n"),
    ("ladder", "activities/keys.py", "from vault.transit import TransitTenantKeys\n"),
    ("ladder", "activities/keys.py", "from vault import transit\n"),
    ("ladder", "activities/keys.py", "def late():\n    import workflows.tenant\n"),
    ("ladder", "worker/codec.py", "from vault.session import VaultSession\n"),
    ("ladder", "worker/wiring.py", "from marketplace.app import create_app\n"),
    ("ladder", "marketplace/app.py", "from workflows.tenant import Tenant\n"),
    ("ladder", "marketplace/app.py", "from workflows import tenant\n"),
    ("ladder", "crypto/https.py", "from workflows.gateway import Gateway\n"),
    ("ladder", "devstack/stack.py", "import cli\n"),
    ("ladder", "marketplace/app.py", "from storefront.sender import Sender\n"),
    ("ladder", "dashboard/pages/marketplace.py", "from storefront.sender import Sender\n"),
    ("ladder", "hooks/keys.py", "from crypto.keyring import Keyring\n"),
    ("ladder", "hooks/keys.py", "from database.interfaces import TenantRow\n"),
    ("ladder", "vault/transit.py", "from . import session\n"),
    ("gateway_is_a_door", "workflows/tenant.py", "from workflows import gateway\n"),
    ("libraries", "activities/keys.py", "import hvac\n"),
    ("libraries", "marketplace/app.py", "from psycopg.rows import dict_row\n"),
    ("libraries", "cli/enable.py", "from temporalio.client import Client\n"),
    ("maps", "vault/__init__.py", ""),
    ("maps", "vault/__init__.py", '"""The map."""\n\nDEFAULT = 1\n'),
    ("sizes", "vault/transit.py", "x = 1\n" * (architecture.LONGEST_FILE + 1)),
    ("suppressions", "vault/transit.py", "x = 1  # noqa\n"),
    ("suppressions", "vault/transit.py", "x = 1  # noqa: S608\n"),
    ("suppressions", "vault/transit.py", "x = 1  # type: ignore # reason\n"),
    ("suppressions", "vault/transit.py", "x = 1  # type: ignore[misc]\n"),
]


@pytest.mark.parametrize(("rule", "path", "text"), SEEDED)
def test_a_seeded_violation_is_found(tmp_path, rule, path, text):
    file = tmp_path / path
    file.parent.mkdir(parents=True)
    file.write_text(text)
    (found,) = getattr(architecture, rule)(read_tree(tmp_path))
    assert found.startswith(f"{path}:")


def test_an_impure_tenancy_is_found():
    for text in (
        "import time\n",
        "import requests\n",
        "from uuid import uuid4\nx = uuid4()\n",
        "from datetime import datetime\nx = datetime.now()\n",
        "x = open('file')\n",
    ):
        assert len(list(purity([Source("tenancy/ids.py", text)], sys.stdlib_module_names))) == 1, text


def test_what_the_ladder_allows_is_not_reported():
    allowed = [
        Source("worker/wiring.py", "from vault.transit import TransitTenantKeys\n"),
        Source("marketplace/app.py", "from workflows.gateway import Gateway\nfrom workflows import gateway\n"),
        Source("activities/keys.py", "from database.interfaces import TenantRow\nfrom activities import journal\n"),
        Source("vault/transit.py", "x = 1  # noqa: S608, S603 - a constant\ny = 2  # type: ignore[misc]  # why\n"),
    ]
    assert [finding for rule in RULES for finding in rule(allowed)] == []
