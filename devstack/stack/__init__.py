"""The stack as a whole: components, supervisor, control, status."""
