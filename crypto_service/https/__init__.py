"""HTTPS server: parser, routes, schemas, problems (RFC 9457)."""
