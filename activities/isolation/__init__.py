"""Activities of isolation: the gate before activation, assessments, attack suites."""
