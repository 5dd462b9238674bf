"""Certificates of a tenant: authorities and their rotation."""
