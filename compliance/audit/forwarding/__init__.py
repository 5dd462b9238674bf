"""Forwarding of an audit stream to an HTTPS endpoint or a syslog server."""
