"""AWS KMS root keys: signed requests, credentials, policies."""
