"""Attacks through the crypto service's real doors, KMIP and HTTPS over mutual TLS, as whoever holds a certificate.

`interfaces` is what the activities know; `attacks` makes the attacks and judges the answers; `dialing`, `https`, `kmip`
and `ttlv` speak the protocols. Nothing of it is shared with the crypto service's own code, not even a table of tags:
what the service writes wrongly and reads wrongly must not look right because the check was written by the same hand.
"""
