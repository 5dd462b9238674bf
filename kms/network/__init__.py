"""Connections to servers of customers: egress policy, deadlines, TLS, HTTP."""
