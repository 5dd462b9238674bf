"""The worker process: workflows and activities with their real adapters.

`__main__` starts and drains it; `wiring` alone chooses implementations; `codec` encrypts what goes into workflow
histories and `codec_server` lets operators read them in the Temporal UI; `bootstrap` declares what must exist there.
"""
