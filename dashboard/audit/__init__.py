"""Audit stream: search and export."""
