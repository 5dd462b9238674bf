"""Plays the platform's marketplace towards our endpoint: signs the event of the one click, posts it, reads the status.

`sender.MarketplaceClient` is all there is. The `python -m devstack enable` command and the dashboard's development page use it; a
platform has a marketplace of its own, so nothing of the product depends on this package. It knows no settings, reads no
secret file, and sees of a tenant what the endpoint tells its marketplace.
"""
