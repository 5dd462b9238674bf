"""A root key in a PKCS#11 token under the contract of all root keys, with SoftHSM changed by other processes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from keystores.interfaces import RootKey
from keystores.providers import CustomerRootKeys, Reach
from tenancy.errors import RootKeyCredentialsRefused, RootKeyUnreachable
from tests.contracts.root_keys import TENANT, RootKeyContract
from tests.keystores.softhsm import SoftHsm

TOKEN = "acme"


@dataclass
class Pkcs11Holder:
    root_keys: CustomerRootKeys
    hsm: SoftHsm
    root_key: RootKey
    refusal = RootKeyCredentialsRefused

    @contextmanager
    def disabled(self) -> Iterator[None]:
        self.hsm.switch(TOKEN, on=False)
        try:
            yield
        finally:
            self.hsm.switch(TOKEN, on=True)

    @contextmanager
    def denied(self) -> Iterator[None]:
        # A token knows no rights, only its PIN, and it is shown to the token whenever it is another.
        right, self.root_key = self.root_key, self.root_keys.open(TENANT, self.hsm.place(TOKEN), self.hsm.pin("wrong"))
        try:
            yield
        finally:
            self.root_key = right

    @contextmanager
    def down(self) -> Iterator[None]:
        self.hsm.take_away(TOKEN)
        try:
            yield
        finally:
            self.hsm.bring_back(TOKEN)
            until_reached(self.root_key)


def until_reached(root_key: RootKey) -> None:
    """The module is made to look for tokens anew once a second at most, because that ends everybody's login."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            root_key.describe()
        except RootKeyUnreachable:
            time.sleep(0.05)
        else:
            return
    raise AssertionError("the token does not come back")


@pytest.fixture(scope="module")
def hsm(tmp_path_factory: pytest.TempPathFactory) -> SoftHsm:
    hsm = SoftHsm.create(tmp_path_factory.mktemp("softhsm"))
    hsm.make_token(TOKEN)
    hsm.make_key(TOKEN)
    return hsm


@pytest.fixture(scope="module")
def root_keys(hsm: SoftHsm) -> CustomerRootKeys:
    return CustomerRootKeys(Reach(pkcs11_module=hsm.module))


@pytest.fixture
def holder(hsm: SoftHsm, root_keys: CustomerRootKeys) -> Pkcs11Holder:
    return Pkcs11Holder(root_keys, hsm, root_keys.open(TENANT, hsm.place(TOKEN), hsm.pin()))


class TestPkcs11RootKey(RootKeyContract):
    pass
