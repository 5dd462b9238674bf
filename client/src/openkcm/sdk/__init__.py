"""Client of the crypto service: requests, envelope encryption, identity."""
