"""The platform's root key under the contract of all root keys, with a real OpenBao that can be taken away."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from keystores.platform import PlatformRootKey
from tenancy import ids
from tenancy.root_key_errors import RootKeyDenied, RootKeyDisabled
from tests.contracts.root_keys import CONTEXT, INNER, RootKeyContract
from tests.vault.server import Server, start
from vault.root_keys import TransitRootKeys

REGION = "eu-west-1"


@dataclass
class PlatformHolder:
    root_key: PlatformRootKey
    server: Server
    absence = (RootKeyDenied, RootKeyDisabled)
    version = 1

    @property
    def another(self) -> PlatformRootKey:
        return PlatformRootKey(TransitRootKeys(self.server.session("crypto")), "us-east-1")

    @property
    def missing(self) -> PlatformRootKey:
        return PlatformRootKey(TransitRootKeys(self.server.session("crypto")), "ap-south-1")

    @contextmanager
    def disabled(self) -> Iterator[None]:
        worker = self.server.session("worker")
        worker.delete(f"transit/keys/{ids.root_key(REGION)}/soft-delete")
        try:
            yield
        finally:
            TransitRootKeys(worker).ensure(REGION)

    @contextmanager
    def denied(self) -> Iterator[None]:
        admin, policy = self.server.admin(), "sys/policies/acl/openkcm-crypto"
        whole = admin.read(policy) or {}
        admin.write(policy, {"policy": 'path "nothing" { capabilities = ["deny"] }'})
        try:
            yield
        finally:
            admin.write(policy, {"policy": whole["policy"]})

    @contextmanager
    def down(self) -> Iterator[None]:
        self.server.kill()
        try:
            yield
        finally:
            self.server.start_again()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = start(tmp_path_factory.mktemp("openbao"))
    for region in (REGION, "us-east-1"):
        TransitRootKeys(server.session("worker")).ensure(region)
    yield server
    server.kill()


@pytest.fixture
def holder(server: Server) -> PlatformHolder:
    return PlatformHolder(PlatformRootKey(TransitRootKeys(server.session("crypto")), REGION), server)


class TestPlatformRootKey(RootKeyContract):
    pass


def test_a_region_without_a_key_is_said_to_have_none(server: Server) -> None:
    nowhere = PlatformRootKey(TransitRootKeys(server.session("worker")), "ap-south-1")
    with pytest.raises(RootKeyDisabled):
        nowhere.wrap(CONTEXT, INNER)


def test_a_ciphertext_below_the_least_version_is_not_opened(server: Server, holder: PlatformHolder) -> None:
    wrapped, key = holder.root_key.wrap(CONTEXT, INNER), f"transit/keys/{ids.root_key(REGION)}"
    admin = server.admin()
    admin.write(f"{key}/rotate")
    assert holder.root_key.unwrap(CONTEXT, wrapped) == INNER
    newer = holder.root_key.wrap(CONTEXT, INNER)
    assert [holder.root_key.version_of(one) for one in (wrapped, newer, b"vault:vx:", b"")] == [1, 2, None, None]
    admin.write(f"{key}/config", {"min_decryption_version": 2})
    with pytest.raises(RootKeyDisabled):
        holder.root_key.unwrap(CONTEXT, wrapped)
    admin.write(f"{key}/config", {"min_decryption_version": 1})
    assert holder.root_key.unwrap(CONTEXT, wrapped) == INNER
