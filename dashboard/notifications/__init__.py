"""Notification targets of a tenant, and the log of deliveries: a section of the page Settings."""
