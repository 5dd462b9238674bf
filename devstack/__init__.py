"""The embedded stack: real PostgreSQL, OpenBao and Temporal from pip packages, and our own processes, supervised.

Read `servers.base` (what every supervised process can do), then the servers, then `stack.supervisor`, which starts
them in order and restarts them. `python -m devstack` is the supervisor; `make up` starts it and `stack.control`
is how the command talks to it. Everything listens on loopback only and keeps its state below `state_dir`.
For development and evaluation: in production each server is an existing one, named by settings. Linux only.
"""
