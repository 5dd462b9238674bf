"""Authentication and authorization: OIDC claims, roles, paths, cookies."""
