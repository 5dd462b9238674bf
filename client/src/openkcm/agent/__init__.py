"""The agent beside one connected service: its certificate, its files, its reload, its heartbeat.

It runs at the customer, on the service's machine or in its pod, as the service's user, and knows nothing of the
platform but two addresses. `agent` is the loop, and reads as what it does: enrol, look for the next certificate, tell
the service, say that it is there. `enrolment` is by a `proof` at the `control` endpoint, `renewal` by the certificate
over the `connection` to the crypto service; `checking` decides whether a certificate is what it should be, `timing`
when to look; `folder` holds what the service reads, which `openkcmctl service connect` shares, `memory` what the agent
itself remembers.
`clock` knows the servers' time, because the machine's may be wrong.

It leaves out what is encrypted: that is `hooks` and the service itself. See docs/agent.md.
"""
