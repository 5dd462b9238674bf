"""A database with the protocol of MongoDB, and drivers with client-side field level encryption (CSFLE)."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bson.binary import Binary
from bson.codec_options import CodecOptions
from pymongo import MongoClient
from pymongo.encryption import Algorithm, ClientEncryption
from pymongo.encryption_options import AutoEncryptionOpts
from pymongo.errors import PyMongoError

from tests.concurrency import wait_until
from tests.e2e.connected import Service
from tests.ports import free_ports

KEY_VAULT = "keyvault.datakeys"
DETERMINISTIC = Algorithm.AEAD_AES_256_CBC_HMAC_SHA_512_Deterministic
CACHE_MILLISECONDS = 300
"""The time for which the driver caches an unwrapped data key; its default is one minute."""


@contextmanager
def mongo_server(folder: Path) -> Iterator[str]:
    """Run a server with storage in memory, and yield its address."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "secantus", "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "mongo.log").open("wb") as log:
        server = subprocess.Popen(
            [*command, "--storage-path", ":memory:"], cwd=folder, stdout=log, stderr=subprocess.STDOUT
        )
    address = f"mongodb://127.0.0.1:{port}"
    try:
        wait_until(lambda: _answers(address), (folder / "mongo.log").read_text)
        yield address
    finally:
        server.terminate()
        server.wait(30)


def _answers(address: str) -> bool:
    with MongoClient(address, serverSelectionTimeoutMS=200) as client:
        try:
            client.admin.command("ping")
        except PyMongoError:
            return False
        return True


@dataclass(frozen=True)
class Driver:
    """The driver of an application with the files of `service connect`; `master_key` selects its mode."""

    address: str
    service: Service
    client: MongoClient[dict[str, Any]]
    encryption: ClientEncryption[Any]
    master_key: dict[str, bool]

    def new_key(self, name: str) -> Binary:
        """Create a data key with the alternative name `name` in the key vault."""
        return self.encryption.create_data_key("kmip", master_key=self.master_key, key_alt_names=[name])

    def wrapped_by(self, data_key: Binary) -> str:
        """Return the id of the managed object that wraps a data key."""
        stored = self.client.get_database("keyvault")["datakeys"].find_one({"_id": data_key})
        assert stored is not None
        return str(stored["masterKey"]["keyId"])

    def encrypt(self, value: str, data_key: Binary) -> Binary:
        return self.encryption.encrypt(value, DETERMINISTIC, key_id=data_key)

    @contextmanager
    def reader(self) -> Iterator[MongoClient[dict[str, Any]]]:
        """Yield another client of the same database that decrypts automatically."""
        options = AutoEncryptionOpts(
            self.service.csfle["kms_providers"],
            KEY_VAULT,
            bypass_auto_encryption=True,
            kms_tls_options=self.service.csfle["kms_tls_options"],
            key_expiration_ms=CACHE_MILLISECONDS,
        )
        with MongoClient(self.address, auto_encryption_opts=options) as client:
            yield client


@contextmanager
def driver(address: str, service: Service, master_key: dict[str, bool]) -> Iterator[Driver]:
    with (
        MongoClient(address) as client,
        ClientEncryption(
            service.csfle["kms_providers"],
            KEY_VAULT,
            client,
            CodecOptions(),
            kms_tls_options=service.csfle["kms_tls_options"],
            key_expiration_ms=CACHE_MILLISECONDS,
        ) as encryption,
    ):
        yield Driver(address, service, client, encryption, master_key)
