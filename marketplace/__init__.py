"""The endpoint a marketplace posts its signed events to, and asks how far a tenant is.

Read `app` for its routes, `events.accept` for the one transaction that makes an answer of 202 a promise, and `relay`
for how the promise is kept while Temporal is down. `events.signature` decides who sent an event and `events.parse` what
it says; `http.problems` is the table from errors to answers. Agents enrol here too: `enrolment`. This
process holds no Vault identity: it stores what came in and hands ids to Temporal.
"""
