"""Execution of a rewritten statement: bind parameters, decrypt rows."""
