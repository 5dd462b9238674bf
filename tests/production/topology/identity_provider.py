"""The platform's single sign-on as a separate server: `python -m tests.production.topology.identity_provider`.

Arguments: address, port, origin of the dashboard, folder of the secrets.
"""

import sys
from pathlib import Path

import uvicorn
from starlette.applications import Starlette

from config.secrets import OIDC_CLIENT_SECRET, read_secret
from config.settings import Settings
from dashboard.auth.claims import ClaimNames
from dashboard.wiring import utc_now
from devstack.oidc_provider import OidcProvider

if __name__ == "__main__":
    address, port, origin, secrets = sys.argv[1:]
    fields = Settings.model_fields
    provider = OidcProvider(
        f"http://{address}:{port}",
        fields["oidc_client_id"].default,
        read_secret(Path(secrets), OIDC_CLIENT_SECRET),
        f"{origin}/oauth2callback",
        ClaimNames(fields["oidc_tenant_claim"].default, fields["oidc_roles_claim"].default),
        utc_now,
    )
    uvicorn.run(Starlette(routes=provider.routes("")), host=address, port=int(port), log_level="warning")
