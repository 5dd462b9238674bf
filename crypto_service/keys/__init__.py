"""Service keys: cache, ciphertext format, primitives, operations, re-encryption."""
