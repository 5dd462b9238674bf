"""Definitions that client and server share; standard library and cryptography only."""
