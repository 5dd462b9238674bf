"""Connection pool and the transaction over the rows of one tenant."""
