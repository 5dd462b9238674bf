"""Commands of root keys: preflight, change, show."""
