"""The interface to Temporal for other processes."""
