"""Isolation checks through the APIs of the crypto service, KMIP and HTTPS over mutual TLS, with a client certificate.

`suite` runs the checks, `model` evaluates the answers, and `tls_client`, `https_client` and `kmip_client` implement the
protocols. They share no code with the crypto service, not even a table of tags: with shared code, an encoding error in
the service would remain undetected.
"""
