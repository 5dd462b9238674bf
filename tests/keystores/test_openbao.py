"""A root key in a customer's own OpenBao under the contract of all root keys."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from keystores.interfaces import RootKey
from keystores.providers import CustomerRootKeys, Reach
from tests.contracts.root_keys import TENANT, RootKeyContract
from tests.keystores.customer_openbao import LOOPBACK, CustomerOpenBao

REACH = Reach(networks=LOOPBACK)


@dataclass
class OpenBaoHolder:
    root_key: RootKey
    bao: CustomerOpenBao

    @contextmanager
    def disabled(self) -> Iterator[None]:
        self.bao.soft_delete()
        try:
            yield
        finally:
            self.bao.restore()

    @contextmanager
    def denied(self) -> Iterator[None]:
        self.bao.allow(())
        try:
            yield
        finally:
            self.bao.allow()

    @contextmanager
    def down(self) -> Iterator[None]:
        self.bao.kill()
        try:
            yield
        finally:
            self.bao.start_again()


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CustomerOpenBao]:
    bao = CustomerOpenBao.start(tmp_path_factory.mktemp("customer"))
    yield bao
    bao.kill()


@pytest.fixture
def holder(bao: CustomerOpenBao) -> OpenBaoHolder:
    return OpenBaoHolder(CustomerRootKeys(REACH).open(TENANT, bao.place(), bao.token()), bao)


class TestOpenBaoRootKey(RootKeyContract):
    pass
