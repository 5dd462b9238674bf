"""The HTTP API for a marketplace, which posts signed events and reads tenant states, and for agents, which enrol.

`app` has the routes. `events.accept` stores an event in one transaction before the response 202, and `relay` delivers
it to Temporal, even after an outage of Temporal. `events.signature` authenticates the sender and `events.parse` reads
the event. `http.problems` maps errors to responses. `enrolment` enrols agents. This process has no OpenBao identity: it
stores requests and passes their ids to Temporal.
"""
