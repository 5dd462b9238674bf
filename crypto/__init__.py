"""The crypto service: what customers' databases and services call, over mTLS.

Start with `interfaces` (who calls, what a key is, what is written down), then `callers` (certificate → tenant and
service), `keyring` (opening L3 service keys), `operations` (what may be done with them), and the two fronts `https`
and `kmip/`, which only translate. `journal` makes an answer wait for its audit record. `python -m crypto` runs it.

It never needs Temporal: reads and writes of customers go on while the control plane is down.
"""
