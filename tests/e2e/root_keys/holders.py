"""Key servers of customers beside the stack: they hold root keys, disable them, and can be made to fail."""

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
    """A root key and its customer: `take_away` disables the key at the customer, `give_back` enables it."""

    place: Place
    credentials: Credentials
    take_away: Act
    give_back: Act
    taken: str
    """The health code of the disabled key."""

    @contextmanager
    def taken_away(self) -> Iterator[None]:
        """Disable the key during the block."""
        self.take_away()
        try:
            yield
        finally:
            self.give_back()

    def words(self, folder: Path) -> tuple[str, ...]:
        """Return the options of the command for this root key; credentials go through a file."""
        file = folder / f"{self.place.provider}.json"
        file.write_bytes(self.credentials.dump())
        file.chmod(0o600)
        options = self.place.model_dump(mode="json", exclude_none=True, exclude={"provider", "ca_pem"})
        flags = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]
        if isinstance(self.place, AwsKmsKeyRef) and self.credentials.access_key_id is not None:
            fields = json.loads(file.read_text())
            flags += ["--access-key-id", fields.pop("access_key_id")]
            file.write_text(json.dumps(fields))
        return ("--provider", self.place.provider, *flags, "--credentials", str(file))


class Holders:
    """MiniStack and OpenBao behind proxies that can alter responses, and a SoftHSM."""

    def __init__(self, folder: Path, hsm_tenant: str = "hsm-customer") -> None:
        """`hsm_tenant` is the tenant to which the operator assigns the token of the SoftHSM."""
        self.hsm_tenant = hsm_tenant
        for name in ("aws", "hsm", "bao"):
            (folder / name).mkdir(parents=True)
        self.aws = MiniStack.start(folder / "aws")
        self.aws_proxy = FaultProxy.start(self.aws.url)
        self.user: User = self.aws.user("openkcm")
        self.hsm = SoftHsm.create(folder / "hsm")
        self.hsm.make_token("customer")
        self.bao = CustomerOpenBao.start(folder / "bao")
        self.bao_proxy = FaultProxy.start(self.bao.url)
        self._count = 0

    def settings(self) -> dict[str, Any]:
        """Return the settings of the stack for these servers."""
        return {
            "aws_kms_endpoint": self.aws_proxy.url,
            "pkcs11_module": self.hsm.module,
            "pkcs11_tokens": {"customer": self.hsm_tenant},
        }

    def hold(self, provider: str) -> Holder:
        """Create a new key at a provider; changes of it do not affect other keys."""
        self._count += 1
        name = f"root-{self._count}"
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
