"""Activities of isolation: the gate before a tenant opens, assessments, attack suites."""
