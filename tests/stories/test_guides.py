"""The guides of docs/integrations.md that need no server of their own, as written."""

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from kmip.core import enums
from kmip.pie.objects import SymmetricKey

from crypto.client import AccessRefused, Client, Options, Retry
from tests.stories.connected import Service
from tests.stories.guides import blocks, words
from tests.stories.pykmip import a_client, attribute
from tests.stories.stack import ROOT, Stack, wait_until

pytestmark = pytest.mark.filterwarnings("ignore:ssl.PROTOCOL_TLS is deprecated:DeprecationWarning")

MICROSERVICES, TDE = "microservices.md", "postgresql-tde.md"
ORDERS, DATABASE = "/etc/openkcm/orders", "/etc/openkcm/orders-db"
ONCE = Options(retry=Retry(attempts=1))


@pytest.fixture(scope="module")
def orders(stack: Stack, acme: str, tmp_path_factory: pytest.TempPathFactory) -> Service:
    folder = tmp_path_factory.mktemp("guide") / "kcm"
    connecting = blocks(MICROSERVICES, "sh", {ORDERS: str(folder)})[0]
    return Service(stack, acme, "orders", folder, stack.command(*words(connecting)))


@pytest.fixture(scope="module")
def database(stack: Stack, acme: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("guide") / "kcm"
    [connecting] = blocks(TDE, "sh", {DATABASE: str(folder)})
    service = Service(stack, acme, "orders-db", folder, stack.command(*words(connecting)))
    yield service
    service.disconnect()


def told(orders: Service) -> dict[str, str]:
    return {ORDERS: str(orders.folder), "https://localhost:18443": orders.answer["https"]}


def test_every_guide_is_in_the_index_and_names_the_test_that_runs_it() -> None:
    index = (ROOT / "docs" / "integrations.md").read_text(encoding="utf-8")
    for row in (line for line in index.splitlines() if line.startswith("| ") and not line.startswith("| what")):
        tests = re.findall(r"`(tests/[a-z_/]+\.py)`", row)
        assert tests, row
        assert all((ROOT / test).is_file() for test in tests), row
    for page in (MICROSERVICES, TDE, "postgresql.md", "object-stores.md"):
        assert f"({page})" in index


def test_a_microservice_encrypts_as_the_guide_says(orders: Service) -> None:
    programs = blocks(MICROSERVICES, "python", told(orders))
    assert len(programs) == 3
    for program in programs:
        exec(program, {})  # noqa: S102 - the guide's own words
    curl = next(block for block in blocks(MICROSERVICES, "sh", told(orders)) if block.startswith("curl"))
    done = subprocess.run(shlex.split(curl.replace("\\\n", " ")), capture_output=True, text=True, check=True)
    assert '"ciphertext":"okcm:v1:' in done.stdout.replace(" ", "")


def test_a_microservice_is_checked_stopped_and_disconnected_as_the_guide_says(stack: Stack, orders: Service) -> None:
    _, _, check, kill, disconnect = blocks(MICROSERVICES, "sh", told(orders))

    def seen() -> bool:
        listed = {row["service_id"]: row for row in stack.command(*words(check))["services"]}
        return listed[orders.name]["last_seen_at"] is not None

    wait_until(seen, lambda: "the list does not say that it was seen")
    lock, unlock = kill.splitlines()
    with Client.from_folder(orders.folder, ONCE) as kcm:
        sealed = kcm.encrypt(b"a record", "orders/1")
        stack.command(*words(lock))
        try:
            with pytest.raises(AccessRefused):
                kcm.decrypt(sealed, "orders/1")
        finally:
            stack.command(*words(unlock))
        assert kcm.decrypt(sealed, "orders/1") == b"a record"
        stack.command(*words(disconnect))
        with pytest.raises(AccessRefused):
            kcm.decrypt(sealed, "orders/1")
    stack.command(*words(blocks(MICROSERVICES, "sh", told(orders))[0]))
    with Client.from_folder(orders.folder, ONCE) as kcm:
        assert kcm.decrypt(sealed, "orders/1") == b"a record"


def test_pg_tde_is_configured_as_the_guide_says(database: Service) -> None:
    host, _, port = database.answer["kmip"].rpartition(":")
    changed = {DATABASE: str(database.folder), "15696": port, "'localhost'": f"'{host}'"}
    assert blocks(TDE, "sql", changed) == [(database.folder / "pg_tde.sql").read_text()]


@pytest.mark.parametrize("version", [enums.KMIPVersion.KMIP_1_0, enums.KMIPVersion.KMIP_1_4])
def test_pg_tdes_principal_key_is_made_and_found_by_another_client(
    database: Service, version: enums.KMIPVersion
) -> None:
    """What the extension does with the settings of the guide, each step on a connection of its own."""
    said = dict(re.findall(r"(\w+) +=> '?([^',\n]+)", (database.folder / "pg_tde.sql").read_text()))
    files = [said[f"kmip_{file}_path"] for file in ("cert", "key", "ca")]
    assert [Path(file).parent for file in files] == [database.folder] * 3
    assert f"{said['kmip_host']}:{said['kmip_port']}" == database.answer["kmip"]
    name, material = f"orders-db-principal-{version.name}", bytes(range(32))
    uses = [enums.CryptographicUsageMask.ENCRYPT, enums.CryptographicUsageMask.DECRYPT]
    for expected in (0, 1):
        with a_client(database, version) as client:
            wanted = [
                attribute(client, enums.AttributeType.OBJECT_TYPE, enums.ObjectType.SYMMETRIC_KEY),
                attribute(client, enums.AttributeType.NAME, name),
            ]
            found = client.locate(maximum_items=16, attributes=wanted)
        assert len(found) == expected
        if not found:
            with a_client(database, version) as client:
                client.register(SymmetricKey(enums.CryptographicAlgorithm.AES, 256, material, uses, name))
    with a_client(database, version) as client:
        assert client.get(found[0]).value == material
