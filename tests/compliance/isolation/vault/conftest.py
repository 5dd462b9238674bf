from tests.vault.conftest import admin, codec, crypto, new_tenant, offboarding, server, tenant, tokens, worker

__all__ = ["admin", "codec", "crypto", "new_tenant", "offboarding", "server", "tenant", "tokens", "worker"]
