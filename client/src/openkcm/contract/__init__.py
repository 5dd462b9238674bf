"""What client and server agree on; standard library and cryptography only."""
