"""Connections to key servers of customers: egress policy, TLS, HTTP."""
