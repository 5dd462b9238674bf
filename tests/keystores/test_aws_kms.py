"""A root key in AWS KMS under the contract of all root keys, with a real server that looks at policies and states."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from keystores.interfaces import RootKey
from keystores.providers import CustomerRootKeys, Reach
from tests.contracts.root_keys import TENANT, RootKeyContract
from tests.keystores.fault_proxy import FaultProxy
from tests.keystores.ministack import Key, MiniStack, User


@dataclass
class AwsHolder:
    root_key: RootKey
    aws: MiniStack
    key: Key
    user: User
    proxy: FaultProxy

    @contextmanager
    def disabled(self) -> Iterator[None]:
        self.key.disable()
        try:
            yield
        finally:
            self.key.enable()

    @contextmanager
    def denied(self) -> Iterator[None]:
        self.key.allow()
        try:
            yield
        finally:
            self.key.allow(self.user.arn)

    @contextmanager
    def down(self) -> Iterator[None]:
        # Killed, MiniStack would forget its keys: what is taken away is the way to it.
        self.proxy.stop()
        try:
            yield
        finally:
            self.proxy.start_again()


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MiniStack]:
    aws = MiniStack.start(tmp_path_factory.mktemp("aws"))
    yield aws
    aws.kill()


@pytest.fixture(scope="module")
def user(aws: MiniStack) -> User:
    return aws.user("openkcm")


@pytest.fixture
def holder(aws: MiniStack, user: User) -> Iterator[AwsHolder]:
    key, proxy = aws.key(), FaultProxy.start(aws.url)
    key.allow(user.arn)
    reach = Reach(aws_endpoint=proxy.url)
    root_key = CustomerRootKeys(reach).open(TENANT, key.place(), user.credentials())
    yield AwsHolder(root_key, aws, key, user, proxy)
    proxy.stop()


class TestAwsRootKey(RootKeyContract):
    pass
