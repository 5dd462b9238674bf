"""Simulation of the platform's marketplace: signs and posts the event of the enable button, and reads the status.

`client.MarketplaceClient` is the interface, for the command `python -m devstack enable` and the development page. A
platform has its own marketplace, so the product does not depend on this package. The client reads no settings and no
secret files, and sees of a tenant only what the endpoint reports to its marketplace.
"""
