"""Activities of offboarding: grace period, destruction."""
