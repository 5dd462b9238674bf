"""Rotation of keys."""
