"""Traces: the context that requests carry, and the spans that processes record. Nothing here exports a span."""
