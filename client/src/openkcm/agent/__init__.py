"""The agent beside one connected service: certificate, files, reload and heartbeat.

It runs at the customer, on the service's machine or in its pod, as the service's user. It knows two addresses of the
platform and nothing else.

    agent                    the loop: enrol, renew, reload the service, send heartbeats
    enrolment                enrolment with an attestation at the control endpoint
    enrolment_client         HTTP client of the control endpoint
    attestation              join token or JWT
    renewal                  renewal with the present certificate at the crypto service
    certificate_validation   checks on an issued certificate
    schedule                 the servers' time, check intervals and backoff
    reload                   signal or command that has the service read its files again
    signals                  interruptible waiting
    state                    what the agent stores between two starts

See docs/agent.md. `openkcm.field_encryption` encrypts data; the agent does not.
"""
