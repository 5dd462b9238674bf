"""Questions that span tenants: of scheduled workflows and of the operations page."""
