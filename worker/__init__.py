"""The worker process: workflows and activities with their adapters.

`__main__` starts and drains the worker. Only `wiring` chooses implementations. `payload_codec` encrypts the payloads of
workflow histories, and `codec_server` lets operators read them in the Temporal UI. `bootstrap` declares what must exist
before the first tenant.
"""
