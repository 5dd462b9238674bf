"""Activities of root keys: change, health, versions."""
