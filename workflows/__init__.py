"""The lifecycle of a tenant as durable workflows, with one module for each operation.

`tenants` is the long-lived tenant workflow, which owns the state and runs one operation at a time. `provisioning` makes
a tenant active, and `services` connects a service and renews its certificates. `runtime.timeouts` holds every timeout
and retry. `client` is the only interface to Temporal for other processes, and no workflow imports it. Workflows use no
I/O, clock or randomness except Temporal's. No payload contains a key, a token or a customer's name.
"""
