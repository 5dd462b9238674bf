"""Approvals: requests for a second person, and their decision."""
