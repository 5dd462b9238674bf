"""The crypto service: what customers' databases and services call, over mTLS.

Start with `interfaces` (who calls, what a key is, what is recorded), then `authentication` (certificate → tenant and
service), `keys` (opening L3 service keys, what may be done with them), and the two servers `https` and `kmip`, which
only translate. Both build on `server`. `audit` makes an answer wait for its audit record and ships that to the stream
of the tenant. `python -m crypto_service` runs it: `processes.supervisor` is the parent, `wiring` chooses what its
children are made of (docs/crypto-service.md).

It never needs Temporal: reads and writes of customers go on while the control plane is down.
"""
