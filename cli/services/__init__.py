"""Commands of services: connect, join tokens, protected fields, coverage."""
