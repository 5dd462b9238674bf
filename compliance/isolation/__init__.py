"""Isolation checks: attempted attacks across tenant boundaries, each with its positive control."""
