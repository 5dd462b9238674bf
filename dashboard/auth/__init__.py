"""Who asks and what they may see: OIDC claims, roles, paths, cookies."""
