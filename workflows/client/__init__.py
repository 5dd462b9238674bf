"""The one way into Temporal for other processes."""
