"""Customers' own key servers beside the stack: they hold root keys, take them away, and can be made to fail."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.keys.root_keys import AwsKmsKeyRef, Credentials, OpenBaoKeyRef, Pkcs11KeyRef, Place
from tests.kms.customer_openbao import CustomerOpenBao
from tests.kms.fault_proxy import FaultProxy
from tests.kms.ministack import Key, MiniStack, User
from tests.kms.softhsm import SoftHsm

Act = Callable[[], object]


@dataclass(frozen=True)
class Holder:
    """A root key with its customer: `take_away` and `give_back` are what they do at their side."""

    place: Place
    credentials: Credentials
    take_away: Act
    give_back: Act
    taken: str
    """The code that a key has that was taken away like this."""

    @contextmanager
    def taken_away(self) -> Iterator[None]:
        """Keep the key taken away until the block ends."""
        self.take_away()
        try:
            yield
        finally:
            self.give_back()

    def words(self, folder: Path) -> tuple[str, ...]:
        """Return the options by which the command is told of it; credentials go through a file."""
        file = folder / f"{self.place.provider}.json"
        file.write_bytes(self.credentials.dump())
        file.chmod(0o600)
        options = self.place.model_dump(mode="json", exclude_none=True, exclude={"provider", "ca_pem"})
        told = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]
        if isinstance(self.place, AwsKmsKeyRef) and self.credentials.access_key_id is not None:
            fields = json.loads(file.read_text())
            told += ["--access-key-id", fields.pop("access_key_id")]
            file.write_text(json.dumps(fields))
        return ("--provider", self.place.provider, *told, "--credentials", str(file))


class Holders:
    """MiniStack and an OpenBao behind proxies that can spoil their answers, and a SoftHSM."""

    def __init__(self, folder: Path) -> None:
        for name in ("aws", "hsm", "bao"):
            (folder / name).mkdir(parents=True)
        self.aws = MiniStack.start(folder / "aws")
        self.aws_proxy = FaultProxy.start(self.aws.url)
        self.user: User = self.aws.user("openkcm")
        self.hsm = SoftHsm.create(folder / "hsm")
        self.hsm.make_token("customer")
        self.bao = CustomerOpenBao.start(folder / "bao")
        self.bao_proxy = FaultProxy.start(self.bao.url)
        self._made = 0

    def settings(self) -> dict[str, Any]:
        """Return what the stack has to be told of them."""
        return {"aws_kms_endpoint": self.aws_proxy.url, "pkcs11_module": self.hsm.module}

    def hold(self, provider: str) -> Holder:
        """Make a new key there; what is done to it touches no other."""
        self._made += 1
        name = f"root-{self._made}"
        match provider:
            case "aws-kms":
                return self._aws(self.aws.key())
            case "pkcs11":
                self.hsm.make_key("customer", name)
                return Holder(
                    Pkcs11KeyRef(token="customer", key=name),
                    self.hsm.pin(),
                    lambda: self.hsm.switch("customer", name, on=False),
                    lambda: self.hsm.switch("customer", name, on=True),
                    "root_key_disabled",
                )
            case "openbao":
                self.bao.make_key(name)
                return Holder(
                    OpenBaoKeyRef(address=self.bao_proxy.url, key=name),
                    self.bao.token(),
                    lambda: self.bao.soft_delete(name),
                    lambda: self.bao.restore(name),
                    "root_key_disabled",
                )
        raise ValueError(provider)

    def _aws(self, key: Key) -> Holder:
        key.allow(self.user.arn)
        return Holder(key.place(), self.user.credentials(), key.disable, key.enable, "root_key_disabled")

    @contextmanager
    def until_closed(self) -> Iterator["Holders"]:
        try:
            yield self
        finally:
            self.close()

    def close(self) -> None:
        for proxy in (self.aws_proxy, self.bao_proxy):
            proxy.stop()
        self.aws.kill()
        self.bao.kill()
