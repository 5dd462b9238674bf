"""The login of this package's processes at the key server; separate from `wiring`, which imports the whole worker."""

from config import secrets
from config.secrets import Role, read_secret
from config.settings import Settings
from vault.auth.client import VaultSession


def open_vault(settings: Settings, role: Role) -> VaultSession:
    """Return a session at OpenBao or Vault with the identity of a role."""
    return VaultSession(
        settings.vault_url,
        role,
        read_secret(settings.secrets, secrets.vault_secret(role)),
        ca_file=settings.vault_ca_file,
        namespace=settings.vault_namespace,
    )
