"""Compliance reports: periods, evaluation, download."""
