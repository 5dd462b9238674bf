"""A production installation on one machine, and drills that break each part of it under load.

`python -m tests.production.topology` starts it in network namespaces: three etcd, PostgreSQL with a synchronous standby
under Patroni, three OpenBao, Temporal, HAProxy, and two hosts with PgBouncer and all processes of the product.
"""
