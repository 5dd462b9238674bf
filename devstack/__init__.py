"""The embedded stack: real PostgreSQL, OpenBao and Temporal from pip packages, and the product's processes, supervised.

Read `servers.base` (a supervised process), then the servers, then `stack.supervisor`, which starts them in order and
restarts them. `python -m devstack` is the supervisor; `make up` starts it, and `stack.control` communicates with it.
All servers listen on loopback only and keep their state below `state_dir`.
For development and evaluation: in production the settings name existing servers. Linux only.
"""
