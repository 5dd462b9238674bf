"""A customer's OpenBao on loopback, with a root key in Transit and credentials for it.

bao = CustomerOpenBao.start(folder)
root_key = RootKeyProviders(EgressPolicy(networks=LOOPBACK)).open(TENANT, bao.place(), bao.token())
bao.soft_delete(); bao.restore(); bao.allow(()); bao.allow(); bao.pause(); bao.resume(); bao.kill(); bao.start_again()
with bao.disabled(), bao.allowing(()), bao.sealed(), bao.paused(), bao.down(): ...
"""

import json
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from core.keys.root_keys import Credentials, OpenBaoKeyRef
from tests.kms.undoing import undone
from tests.pausing import pause, resume
from tests.vault.server import Server, start
from vault.auth.client import TokenSession

LOOPBACK = ("127.0.0.0/8",)
KEY = "openkcm-root"
POLICY = "openkcm"
ALL = ("encrypt", "decrypt", "keys")
_CAPABILITIES = {"encrypt": "update", "decrypt": "update", "keys": "read"}


@dataclass
class CustomerOpenBao:
    server: Server
    _admin: TokenSession

    @classmethod
    def start(cls, folder: Path, **key: Any) -> "CustomerOpenBao":
        server = start(folder, bare=True)
        bao = cls(server, server.admin())
        bao._admin.write("sys/mounts/transit", {"type": "transit"})
        bao.make_key(**key)
        bao.allow()
        bao._admin.write("auth/approle/role/openkcm", {"role_id": "openkcm", "token_policies": [POLICY]})
        return bao

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def admin(self) -> TokenSession:
        """Return a session of the customer's administrator."""
        return self._admin

    def place(self, key: str = KEY, **more: Any) -> OpenBaoKeyRef:
        return OpenBaoKeyRef(**{"address": self.url, "key": key, **more})

    def token(self, **more: Any) -> Credentials:
        """Return a periodic token of the platform's policy."""
        wanted = {"policies": [POLICY], "no_parent": True, "period": "24h", **more}
        answer = self._admin.request("POST", "auth/token/create", wanted)
        return Credentials(token=SecretStr(answer["auth"]["client_token"]))

    def secret_id(self) -> Credentials:
        """Return a secret id, to be used with `place(role_id="openkcm")`."""
        return Credentials(secret_id=SecretStr(self._admin.write("auth/approle/role/openkcm/secret-id")["secret_id"]))

    def revoke(self, credentials: Credentials) -> None:
        assert credentials.token is not None
        self._admin.write("auth/token/revoke", {"token": credentials.token.get_secret_value()})

    def revoke_logins(self) -> None:
        """Revoke every token of an AppRole login, as an administrator may in an emergency."""
        self._admin.write("sys/leases/revoke-force/auth/approle/login")
        self._admin = self.server.admin()

    def make_key(self, name: str = KEY, **fields: Any) -> None:
        config = {what: fields.pop(what) for what in ("exportable", "allow_plaintext_backup") if what in fields}
        self._admin.write(f"transit/keys/{name}", fields)
        if config:
            self._admin.write(f"transit/keys/{name}/config", config)

    def destroy_key(self, name: str = KEY) -> None:
        self._admin.write(f"transit/keys/{name}/config", {"deletion_allowed": True})
        self._admin.delete(f"transit/keys/{name}")

    def soft_delete(self, name: str = KEY) -> None:
        self._admin.delete(f"transit/keys/{name}/soft-delete")

    def restore(self, name: str = KEY) -> None:
        self._admin.write(f"transit/keys/{name}/soft-delete-restore")

    def allow(self, paths: tuple[str, ...] = ALL, **capabilities: str) -> None:
        """Set the platform's policy to exactly these paths of every key."""
        wanted = {**_CAPABILITIES, **capabilities}
        lines = [f'path "transit/{path}/+" {{ capabilities = ["{wanted[path]}"] }}' for path in paths]
        self._admin.write(f"sys/policies/acl/{POLICY}", {"policy": "\n".join(lines) or 'path "none" {}'})

    # ── changes that last as long as a block ─────────────────────────────────────────────────────────────────────────

    def disabled(self, name: str = KEY) -> AbstractContextManager[None]:
        return undone(lambda: self.soft_delete(name), lambda: self.restore(name))

    def allowing(self, paths: tuple[str, ...] = ALL, **capabilities: str) -> AbstractContextManager[None]:
        return undone(lambda: self.allow(paths, **capabilities), self.allow)

    def down(self) -> AbstractContextManager[None]:
        return undone(self.kill, self.start_again)

    def paused(self) -> AbstractContextManager[None]:
        """Pause the server: it accepts connections and does not respond."""
        return undone(self.pause, self.resume)

    def sealed(self) -> AbstractContextManager[None]:
        """Start the server with another seal key, so that it stays sealed.

        With its regular seal key it would unseal automatically within five seconds.
        """
        file = self.server.folder / "unseal.key"
        right = file.read_bytes()

        def start_with(key: bytes, *, sealed: bool) -> None:
            self.kill()
            file.write_bytes(key)
            self.server.start_again(sealed=sealed)

        return undone(lambda: start_with(bytes(32), sealed=True), lambda: start_with(right, sealed=False))

    @property
    def log(self) -> Path:
        return self.server.folder / "logs" / "audit.log"

    def count(self, what: str, name: str = KEY, since: int = 0) -> int:
        """Return the number of `encrypt` or `decrypt` requests with a key in the log from byte `since`."""
        wanted, found = f"transit/{what}/{name}", 0
        with self.log.open("rb") as log:
            log.seek(since)
            for line in log:
                if wanted.encode() in line and line.endswith(b"\n"):  # the last line may be incomplete
                    record = json.loads(line)
                    found += record["type"] == "request" and record["request"]["path"] == wanted
        return found

    def pause(self) -> None:
        pause(self.server.process.pid)

    def resume(self) -> None:
        resume(self.server.process.pid)

    def kill(self) -> None:
        self.server.kill()

    def start_again(self) -> None:
        self.server.start_again()
