"""The login of this package's processes at the key server; separate from `wiring`, which imports the whole worker."""

from collections.abc import Callable

from config import secrets
from config.secrets import Role, read_secret
from config.settings import Settings
from vault.auth.client import VaultSession


def open_vault(settings: Settings, role: Role, on_response: Callable[[], None] | None = None) -> VaultSession:
    """Return a session at OpenBao or Vault with the identity of a role; `on_response` is called at each response."""
    return VaultSession(
        settings.vault_url,
        role,
        read_secret(settings.secrets, secrets.vault_secret(role)),
        ca_file=settings.vault_ca_file,
        namespace=settings.vault_namespace,
        on_response=on_response,
    )
