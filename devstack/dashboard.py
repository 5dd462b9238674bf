"""`python -m devstack.dashboard`: the product's dashboard with a sign-on without passwords and a marketplace page."""

import sys
from functools import partial

from config.secrets import MARKETPLACE_TOKEN, WEBHOOK_SECRETS, read_secret
from config.settings import Settings
from dashboard.__main__ import main
from dashboard.auth.claims import ClaimNames
from dashboard.auth.routes import DEVELOPMENT_SIGN_ON
from dashboard.wiring import Development, utc_now
from devstack.marketplace_simulator.client import MarketplaceClient
from devstack.marketplace_simulator.page import Market
from devstack.oidc_provider import OidcProvider


def develop(settings: Settings, origin: str, client_secret: str, names: ClaimNames) -> Development:
    """Return the OpenID provider's routes and the marketplace page, with the secrets of the simulated platform."""
    provider = OidcProvider(
        f"{origin}{DEVELOPMENT_SIGN_ON}",
        settings.oidc_client_id,
        client_secret,
        f"{origin}/oauth2callback",
        names,
        utc_now,
    )
    folder = settings.secrets
    client = MarketplaceClient(
        settings.marketplace_url,
        read_secret(folder, WEBHOOK_SECRETS),
        read_secret(folder, MARKETPLACE_TOKEN),
        utc_now,
    )
    market = Market(client, settings.regions, settings.provisioning_slo_seconds, utc_now)
    return Development(provider.routes(DEVELOPMENT_SIGN_ON), partial(_draw_marketplace, market))


def _draw_marketplace(market: Market) -> None:
    from devstack.marketplace_simulator import page as marketplace  # noqa: PLC0415 - imports pandas, which is needed only for pages

    marketplace.draw(market)


if __name__ == "__main__":
    sys.exit(main(develop))
