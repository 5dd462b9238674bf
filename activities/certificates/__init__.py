"""Activities of certificates: CA rotation, CRL, expiry."""
