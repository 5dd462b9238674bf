"""OpenBao as the platform's single sign-on: an OpenID Connect provider of a third party."""

from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Page

from tests.vault import server
from tests.vault.server import Server

TENANT_CLAIM, ROLES_CLAIM, SCOPE = "kcm_tenant", "groups", "kcm"
PASSWORD = "correct horse battery staple"
_MAY_SIGN_ON = 'path "identity/oidc/provider/+/authorize" { capabilities = ["read", "update"] }'
_CLAIMS = (
    f'{{"{TENANT_CLAIM}": {{{{identity.entity.metadata.tenant}}}}, "name": {{{{identity.entity.metadata.display}}}},'
    f' "{ROLES_CLAIM}": {{{{identity.entity.groups.names}}}}}}'
)


@dataclass(frozen=True)
class Issuer:
    """A running provider with one client; `address` is the URL of its metadata."""

    server: Server
    client_id: str
    client_secret: str

    @property
    def address(self) -> str:
        return f"{self.server.url}/v1/identity/oidc/provider/platform/.well-known/openid-configuration"

    def add(self, name: str, tenant_id: str) -> None:
        """Add an administrator of a tenant."""
        admin = self.server.admin()
        admin.write(f"auth/userpass/users/{name}", {"password": PASSWORD, "token_policies": ["sign-on"]})
        metadata = {"display": name.capitalize(), "tenant": tenant_id}
        entity = admin.write("identity/entity", {"name": name, "metadata": metadata})["id"]
        accessor = admin.request("GET", "sys/auth")["data"]["userpass/"]["accessor"]
        admin.write("identity/entity-alias", {"name": name, "canonical_id": entity, "mount_accessor": accessor})
        group = admin.request("GET", "identity/group/name/administrator")["data"]
        admin.write(
            "identity/group/name/administrator", {"member_entity_ids": [*(group["member_entity_ids"] or []), entity]}
        )


def start(folder: Path, redirect_uri: str) -> Issuer:
    """Start a provider with one client that is allowed only `redirect_uri`."""
    running = server.start(folder, bare=True, ui=True)
    admin = running.admin()
    admin.write("sys/policies/acl/sign-on", {"policy": _MAY_SIGN_ON})
    admin.write("sys/auth/userpass", {"type": "userpass"})
    admin.write("sys/auth/userpass/tune", {"listing_visibility": "unauth"})
    group = admin.write("identity/group", {"name": "administrator"})["id"]
    admin.write("identity/oidc/assignment/dashboard", {"group_ids": [group]})
    admin.write("identity/oidc/key/sso", {"allowed_client_ids": ["*"], "algorithm": "RS256"})
    client = {"redirect_uris": [redirect_uri], "assignments": ["dashboard"], "key": "sso", "id_token_ttl": "1h"}
    admin.write("identity/oidc/client/dashboard", client)
    admin.write(f"identity/oidc/scope/{SCOPE}", {"template": _CLAIMS})
    provider = {"allowed_client_ids": ["*"], "scopes_supported": [SCOPE], "issuer": running.url}
    admin.write("identity/oidc/provider/platform", provider)
    made = admin.request("GET", "identity/oidc/client/dashboard")["data"]
    return Issuer(running, made["client_id"], made["client_secret"])


def sign_in(page: Page, name: str) -> None:
    """Sign in on the provider's own page."""
    page.locator("[name=username]").fill(name)
    page.locator("[name=password]").fill(PASSWORD)
    page.locator("#auth-submit").click()
