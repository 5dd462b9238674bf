"""The endpoint a marketplace posts its signed events to, and asks how far a tenant is.

Read `app` for its routes, `acceptance` for the one transaction that makes an answer of 202 a promise, and `rounds` for
how the promise is kept while Temporal is down. `signature` decides who sent it and `envelopes` what it says; `problems`
is the one table from errors to answers. Agents enrol here too: `enrolment_routes`, `proofs` and `enrolment`. This
process holds no Vault identity: it stores what came in and hands ids to Temporal.
"""
