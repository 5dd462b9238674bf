"""The status of a tenant on every page: measured badges, notices, emergency controls, progress of a lock."""
