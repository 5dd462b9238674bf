"""Offline verification of compliance reports: every figure is computed again from the signed snapshot."""
