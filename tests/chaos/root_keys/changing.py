"""Root key providers, and a tenant that changes between them."""

import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from config import secrets
from config.credential_encryption import encrypt_credentials
from config.secrets import Role, read_secret
from core.keys.root_keys import Credentials, Place, PlatformKeyRef
from database.root_keys import RootKeyChangeRow, RootKeyRequestRow
from tests.chaos.audited import whole_stream
from tests.chaos.field import Field
from tests.kms.customer_openbao import CustomerOpenBao
from tests.kms.estate import assert_in_force
from tests.kms.ministack import Key, MiniStack, User


@dataclass
class Customers:
    """The key servers of customers: an OpenBao with several keys, and AWS."""

    bao: CustomerOpenBao
    aws: MiniStack
    user: User
    key: Key

    @classmethod
    def start(cls, folder: Path) -> Self:
        for name in ("bao", "aws"):
            (folder / name).mkdir()
        aws = MiniStack.start(folder / "aws")
        user, key = aws.user("kcm"), aws.key()
        key.allow(user.arn)
        bao = CustomerOpenBao.start(folder / "bao")
        bao.make_key("second")
        bao.make_key("disabled")
        return cls(bao, aws, user, key)

    def holds(self, name: str) -> tuple[Place, Credentials | None]:
        """Return the reference of a root key and new credentials: `platform`, `aws`, or a key of the OpenBao."""
        match name:
            case "platform":
                return PlatformKeyRef(), None
            case "aws":
                return self.key.place(), self.user.credentials()
            case _:
                return self.bao.place(name), self.bao.token()

    def stop(self) -> None:
        self.bao.kill()
        self.aws.kill()


@dataclass
class Tenant:
    """The tenant whose root key is changed, by a caller that retries until it succeeds."""

    field: Field
    customers: Customers
    tenant_id: str
    root_key: tuple[str, str | None] = ("platform", None)
    """The holder of the root key in force, and its id."""

    def request(self, holder: str) -> str:
        place, credentials = self.customers.holds(holder)
        request_id = uuid.uuid4().hex
        public = read_secret(self.field.settings.secrets, secrets.INTAKE_PUBLIC_KEY)
        sealed = credentials and encrypt_credentials(public, self.tenant_id, request_id, credentials)
        with self.field.tx(self.tenant_id, Role.OPERATOR) as tx:
            tx.root_keys.request(RootKeyRequestRow(request_id, place, sealed))
        return request_id

    def change(self, holder: str, before_restart: Callable[[], None] = lambda: None) -> str:
        """Change to another root key and return its id; raise UpdateRejected when the change was abandoned."""
        request_id = self.request(holder)
        self.field.ask(lambda gateway: gateway.change_root_key(self.tenant_id, request_id), before_restart)
        self.root_key = (holder, None if holder == "platform" else request_id)
        return request_id

    def ensure_root_key(self, holder: str) -> None:
        """Ensure that this root key is in force, regardless of earlier tests."""
        if self.root_key[0] != holder:
            self.field.set_plans()
            self.change(holder)

    def assert_root_key(self) -> RootKeyChangeRow:
        """Check the recorded state, and return the last change."""
        self.field.wait_whole()
        with self.field.database(Role.WORKER) as database:
            holder, root_key_id = self.root_key
            assert_in_force(database, self.tenant_id, self.customers.holds(holder)[0].provider, root_key_id)
            with database.tenant_tx(self.tenant_id) as tx:
                [last] = tx.root_keys.changes(1)
            records = whole_stream(database, self.tenant_id)
        counted = Counter(
            (record["event_id"].partition("/")[0], record["name"], record["outcome"])
            for record in records
            if record["name"].startswith("root_key.")
        )
        assert set(counted.values()) <= {1}, counted
        operation = f"root-key-{last.number}"
        ended = "success" if last.state == "done" else "failure"
        assert {outcome for (of, name, outcome) in counted if (of, name) == (operation, "root_key.changed")} == {
            "intended",
            ended,
        }
        return last
