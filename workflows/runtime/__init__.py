"""The shared parts of workflows: activity calls, timeouts, failures, signals and the base of the tenant workflow."""
