"""The stack: components, supervisor, control, status."""
