"""The life of a tenant as durable workflows, one file an operation, each reading as a runbook.

`tenant` is the long-lived entity that owns the state and runs one operation at a time; `provision` makes a tenant
ready; `service` connects one service and keeps it connected; `timing` holds every deadline and retry; `gateway` is
the only door into Temporal for other processes and is imported by no workflow. No I/O, clock or randomness but
Temporal's own; no key, token or customer's name in any payload.
"""
