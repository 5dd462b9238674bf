"""Compliance reports: periods, snapshot, assembly."""
