"""The guides of docs/integrations.md that need no additional server, executed as written."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from kmip.core import enums
from kmip.pie.objects import SymmetricKey

from openkcm.sdk.client import Client
from openkcm.sdk.errors import AccessRefused
from tests.concurrency import wait_until
from tests.e2e.connected import AT_ONCE_SECONDS, ONCE, Service
from tests.e2e.integrations.guides import blocks, words
from tests.e2e.integrations.pykmip import a_client, attribute
from tests.e2e.stack import ACME, ROOT, Stack

pytestmark = pytest.mark.filterwarnings("ignore:ssl.PROTOCOL_TLS is deprecated:DeprecationWarning")

MICROSERVICES, TDE = "microservices.md", "postgresql-tde.md"
ORDERS, DATABASE = "/etc/openkcm/orders", "/etc/openkcm/orders-db"


def test_every_guide_is_in_the_index_and_names_the_test_that_runs_it() -> None:
    index = (ROOT / "docs" / "integrations.md").read_text(encoding="utf-8")
    for row in (line for line in index.splitlines() if line.startswith("| ") and not line.startswith("| what")):
        tests = re.findall(r"`(tests/[a-z0-9_/]+\.py)`", row)
        assert tests, row
        assert all((ROOT / test).is_file() for test in tests), row
    for page in (MICROSERVICES, TDE, "postgresql.md", "object-stores.md"):
        assert f"({page})" in index


def test_the_guide_for_microservices_works_as_written(stack: Stack, tenant: str, tmp_path: Path) -> None:
    folder = tmp_path / "kcm"
    changed = {ORDERS: str(folder), ACME: tenant}
    connecting, _, check, kill, disconnect = blocks(MICROSERVICES, "sh", changed)
    answer = stack.command(*words(connecting))
    changed |= {"https://localhost:18443": answer["https"]}

    programs = blocks(MICROSERVICES, "python", changed)
    assert len(programs) == 3
    for program in programs:
        exec(program, {})  # noqa: S102 - code of the guide
    curl = next(block for block in blocks(MICROSERVICES, "sh", changed) if block.startswith("curl"))
    done = subprocess.run(shlex.split(curl.replace("\\\n", " ")), capture_output=True, text=True, check=True)
    assert '"ciphertext":"okcm:v1:' in done.stdout.replace(" ", "")

    def seen() -> bool:
        listed = {row["service_id"]: row for row in stack.command(*words(check))["services"]}
        return listed["orders"]["last_seen_at"] is not None

    wait_until(seen, lambda: "the service list has no time of last contact")
    with Client.from_folder(folder, ONCE) as kcm:
        sealed = kcm.encrypt(b"a record", "orders/1")

        def decrypts() -> bool:
            try:
                return kcm.decrypt(sealed, "orders/1") == b"a record"
            except AccessRefused:
                return False

        lock, unlock = kill.splitlines()
        for command, works in ((lock, False), (unlock, True), (disconnect, False)):
            stack.command(*words(command))
            wait_until(lambda works=works: decrypts() is works, lambda command=command: command, AT_ONCE_SECONDS)
    stack.command(*words(connecting))
    with Client.from_folder(folder, ONCE) as kcm:
        assert kcm.decrypt(sealed, "orders/1") == b"a record"


def test_the_guide_for_pg_tde_configures_it_and_its_principal_key_is_found(
    stack: Stack, tenant: str, tmp_path: Path
) -> None:
    """PyKMIP sends the requests of the extension with the settings of the guide, each on a new connection."""
    folder = tmp_path / "kcm"
    changed = {DATABASE: str(folder)}
    [connecting] = blocks(TDE, "sh", changed | {ACME: tenant})
    service = Service(stack, tenant, "orders-db", folder, stack.command(*words(connecting)))
    host, _, port = service.answer["kmip"].rpartition(":")
    settings = (folder / "pg_tde.sql").read_text()
    assert blocks(TDE, "sql", changed | {"15696": port, "'localhost'": f"'{host}'"}) == [settings]

    named = dict(re.findall(r"(\w+) +=> '?([^',\n]+)", settings))
    files = [named[f"kmip_{file}_path"] for file in ("cert", "key", "ca")]
    assert [Path(file).parent for file in files] == [folder] * 3
    assert f"{named['kmip_host']}:{named['kmip_port']}" == service.answer["kmip"]
    uses = [enums.CryptographicUsageMask.ENCRYPT, enums.CryptographicUsageMask.DECRYPT]
    for version in (enums.KMIPVersion.KMIP_1_0, enums.KMIPVersion.KMIP_1_4):
        name, material = f"orders-db-principal-{version.name}", bytes(range(32))
        for expected in (0, 1):
            with a_client(service, version) as client:
                wanted = [
                    attribute(client, enums.AttributeType.OBJECT_TYPE, enums.ObjectType.SYMMETRIC_KEY),
                    attribute(client, enums.AttributeType.NAME, name),
                ]
                found = client.locate(maximum_items=16, attributes=wanted)
            assert len(found) == expected
            if not found:
                with a_client(service, version) as client:
                    client.register(SymmetricKey(enums.CryptographicAlgorithm.AES, 256, material, uses, name))
        with a_client(service, version) as client:
            assert client.get(found[0]).value == material
