"""Directory of one service: key, certificate, configuration and lock, replaced atomically."""
