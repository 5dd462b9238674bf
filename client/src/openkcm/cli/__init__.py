"""Commands of the client: agent, run, backfill, offline verification."""
