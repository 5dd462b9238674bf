"""Rules of tenants: lifecycle, locks, policy, approvals, provisioning, offboarding, roles."""
