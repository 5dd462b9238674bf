"""Two releases side by side under load, and back: `releases` makes their sources, `installation` runs them.

Both use the same servers. A load balancer sends requests to two hosts, as docs/production.md describes.
"""
