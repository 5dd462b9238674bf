"""Errors of the server by subject; every class has a stable code, a message and a hint."""
