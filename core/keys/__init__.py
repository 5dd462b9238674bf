"""Rules of keys: encryption context, root keys, rotation."""
