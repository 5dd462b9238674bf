"""Usage: operations and latency by service."""
