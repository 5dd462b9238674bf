"""The crypto service: the API that customers' databases and services call over mTLS.

Read `interfaces` first (callers, keys, audit entries), then `authentication` (certificate → tenant and service) and
`keys` (unwrapping of L3 service keys, operations with them). The servers `https` and `kmip` only translate; both
build on `server`. `audit` delays each response until its audit record is written and ships the records to the
tenants' streams. `python -m crypto_service` starts `processes.supervisor`, the parent; `wiring` chooses the
implementations for its children (docs/crypto-service.md).

The service never calls Temporal: customers' requests are answered while the control plane is down.
"""
