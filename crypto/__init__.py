"""The crypto service: what customers' databases and services call, over mTLS.

Start with `interfaces` (who calls, what a key is, what is written down), then `callers` (certificate → tenant and
service), `keyring` (opening L3 service keys), `operations` (what may be done with them), and the two fronts `https`
and `kmip/`, which only translate. Both build on `connections`. `journal` makes an answer wait for its audit record,
`delivery` brings it to the tenant's stream. `python -m crypto` runs it: `supervision` is the parent, `serving` and
`delivering` are its children, `wiring` chooses what they are made of (docs/crypto-service.md).

It never needs Temporal: reads and writes of customers go on while the control plane is down.
"""
