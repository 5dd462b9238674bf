"""The contract of root keys for the platform's root key, with a real OpenBao that the tests stop."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import pytest

from core import names as ids
from core.errors.keys import RootKeyDenied, RootKeyDisabled, WrongContext
from kms.platform import PlatformRootKey
from tests.contracts.root_keys import CONTEXT, INNER, RootKeyContract
from tests.kms.undoing import undone
from tests.vault.server import Server, start
from vault.transit.keys import REWRAP_BATCH
from vault.transit.root_keys import TransitRootKeys

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

    def disabled(self) -> AbstractContextManager[None]:
        # By an administrator of the server: no process of OpenKCM can disable a root key of the platform.
        soft_delete = f"transit/keys/{ids.root_key(REGION)}/soft-delete"
        return undone(
            lambda: self.server.admin().delete(soft_delete),
            lambda: TransitRootKeys(self.server.session("worker")).ensure(REGION),
        )

    def denied(self) -> AbstractContextManager[None]:
        admin, policy = self.server.admin(), "sys/policies/acl/openkcm-crypto"
        whole, nothing = (admin.read(policy) or {})["policy"], 'path "nothing" { capabilities = ["deny"] }'
        return undone(lambda: admin.write(policy, {"policy": nothing}), lambda: admin.write(policy, {"policy": whole}))

    def down(self) -> AbstractContextManager[None]:
        return undone(self.server.kill, self.server.start_again)


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


def test_worker_wraps_and_unwraps_a_batch_with_a_context_for_each_item(server: Server) -> None:
    root_key = PlatformRootKey(TransitRootKeys(server.session("worker")), REGION)
    contexts = [CONTEXT._replace(object_id=f"service-{place}") for place in range(REWRAP_BATCH)]
    inners = [INNER + bytes([place]) for place in range(REWRAP_BATCH)]
    wraps = root_key.wrap_all(list(zip(contexts, inners, strict=True)))
    assert list(root_key.unwrap_all(list(zip(contexts, wraps, strict=True)))) == inners
    assert [root_key.unwrap(context, wrap) for context, wrap in zip(contexts[:2], wraps[:2], strict=True)] == inners[:2]
    moved = [contexts[1], contexts[0], *contexts[2:]]
    with pytest.raises(WrongContext):
        root_key.unwrap_all(list(zip(moved, wraps, strict=True)))
    with pytest.raises(WrongContext):
        root_key.unwrap_all([*zip(contexts[:2], wraps[:2], strict=True), (contexts[2], b"\xff")])
    assert list(root_key.wrap_all([])) == list(root_key.unwrap_all([])) == []


def test_batches_are_denied_to_the_crypto_service(holder: PlatformHolder) -> None:
    wrapped = holder.root_key.wrap(CONTEXT, INNER)
    with pytest.raises(RootKeyDenied):
        holder.root_key.wrap_all([(CONTEXT, INNER)])
    with pytest.raises(RootKeyDenied):
        holder.root_key.unwrap_all([(CONTEXT, wrapped)])


def test_region_without_a_key_is_reported_as_a_disabled_key(server: Server) -> None:
    nowhere = PlatformRootKey(TransitRootKeys(server.session("worker")), "ap-south-1")
    for use in (lambda: nowhere.wrap(CONTEXT, INNER), lambda: nowhere.wrap_all([(CONTEXT, INNER)])):
        with pytest.raises(RootKeyDisabled):
            use()


def test_ciphertext_below_the_least_version_is_not_decrypted(server: Server) -> None:
    region, admin = "eu-north-1", server.admin()  # not the region of the contract, which expects version 1
    TransitRootKeys(server.session("worker")).ensure(region)
    root_key = PlatformRootKey(TransitRootKeys(server.session("crypto")), region)
    wrapped, key = root_key.wrap(CONTEXT, INNER), f"transit/keys/{ids.root_key(region)}"
    admin.write(f"{key}/rotate")
    assert root_key.unwrap(CONTEXT, wrapped) == INNER
    newer = root_key.wrap(CONTEXT, INNER)
    assert [root_key.version_of(one) for one in (wrapped, newer, b"vault:vx:", b"")] == [1, 2, None, None]
    admin.write(f"{key}/config", {"min_decryption_version": 2})
    with pytest.raises(RootKeyDisabled):
        root_key.unwrap(CONTEXT, wrapped)
    admin.write(f"{key}/config", {"min_decryption_version": 1})
    assert root_key.unwrap(CONTEXT, wrapped) == INNER
