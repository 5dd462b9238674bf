"""Networks to which the platform connects for customers, besides public addresses."""

from config.settings import Settings


def webhook_networks(settings: Settings) -> tuple[str, ...]:
    """Return the networks in which webhooks of tenants are allowed, with or without TLS."""
    if settings.webhook_networks is not None:
        return settings.webhook_networks
    return ("127.0.0.0/8",) if settings.vault_address is None else ()
