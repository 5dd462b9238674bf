"""All timeouts and retries, and the arithmetic behind the provisioning SLO of three minutes.

An attempt of a step times out after `ATTEMPT` and is retried after 0.2, 0.4, 0.8, 1.6, 3.2, then every 5 seconds (with
jitter, which the worker adds). A killed worker therefore delays a step by at most ATTEMPT + 5 s, or by
KEY_SERVER_HEARTBEAT + 5 s where the step makes several calls to the key server. A tenant whose worker is killed once in
each of the five sequential steps is still active in under a minute. The number of attempts is unlimited: a breach of
the SLO raises an alert, and provisioning continues.
"""

from datetime import timedelta

from temporalio.common import RetryPolicy

ATTEMPT = timedelta(seconds=6)
KEY_SERVER_ATTEMPT = timedelta(minutes=5)
"""The longest attempt of a step that makes several calls to the key server: at most thirty, each six seconds long."""
KEY_SERVER_HEARTBEAT = timedelta(seconds=8)
"""Responses of the key server are heartbeats (activities.runtime.step_progress), at most one a second. One call, with
the connection, takes at most six seconds."""

FIRST_RETRY_SECONDS = 0.2
LARGEST_RETRY_SECONDS = 5.0

RETRY = RetryPolicy(
    initial_interval=timedelta(seconds=FIRST_RETRY_SECONDS),
    backoff_coefficient=2.0,
    maximum_interval=timedelta(seconds=LARGEST_RETRY_SECONDS),
)


def retry_pause(attempt: int) -> timedelta:
    """Return the pause after a failed attempt, from 1, as RETRY has it."""
    return timedelta(seconds=min(FIRST_RETRY_SECONDS * 2 ** min(attempt - 1, 10), LARGEST_RETRY_SECONDS))


EVENT_PAUSE = timedelta(seconds=LARGEST_RETRY_SECONDS)
"""The pause before a pending marketplace event is processed again, after the tenant's row could not be read."""

ONCE = RetryPolicy(maximum_attempts=1)

DELIVERY_ATTEMPT = timedelta(seconds=20)
DELIVERY_DEADLINE = timedelta(minutes=1)
"""How long an operation tries to send its notification; afterwards the outbox sweep sends it, and the tenant can run
its next operation."""

HEADS_ATTEMPT = timedelta(minutes=2)
BUDGET_ATTEMPT = timedelta(minutes=6)
"""A scheduled activity stops after its time budget of four minutes (activities.runtime.concurrency), between items."""
HEARTBEAT = timedelta(seconds=15)
HEARTBEAT_INTERVAL = timedelta(seconds=0.5)
"""The shortest time between two heartbeats that reach Temporal. The SDK's default is 80 % of their timeout. Of a short
timeout this leaves a busy worker less than a second before it counts as dead."""
RECONCILE_ATTEMPT = timedelta(hours=1)
"""A day of a busy key server's log, at tens of thousands of lines a second, and as many streams."""

ALARM_DEADLINE = timedelta(minutes=10)
"""How long an hourly alert may delay the work after it; longer than one attempt."""

PREFLIGHT_ATTEMPT = timedelta(seconds=30)
"""A preflight makes about eight calls to a customer's server; it ends after 25 seconds with a timeout as its result."""
PREFLIGHT_DEADLINE = timedelta(minutes=5)
"""How long the first steps of a root key change, and a preflight, wait for the platform's own servers."""
WRAP_ATTEMPT = timedelta(minutes=10)
WRAP_HEARTBEAT = timedelta(seconds=6)
WRAP_DEADLINE = timedelta(hours=1)
"""How long a root key change waits for an unreachable root key; the former key stays active meanwhile."""
SETTLE = timedelta(seconds=10)
"""Pause between the last new wrap and the retirement of the former version. It exceeds the timeout of a customer's key
server, so that a process that has read an old wrap can unwrap its outer layer."""
RESEAL_DEADLINE = timedelta(minutes=10)
"""How long a rotation waits for the re-encryption of objects; afterwards the hourly run continues."""
RESEAL_PAUSE = timedelta(seconds=10)
NOTICE_ATTEMPT = timedelta(minutes=30)
"""Every root key is checked once, eight at a time; unreachable ones take their full timeout."""
WATCH_ATTEMPT = timedelta(hours=1)
WATCH_HEARTBEAT = timedelta(seconds=4)
"""After this time another worker continues the monitoring of a dead worker."""
WATCH_PAUSE = timedelta(seconds=10)
"""The pause of the monitoring after a rejection, for example by a database that a migration has not reached."""

EXAMINE_ATTEMPT = timedelta(minutes=2)
EXAMINE_HEARTBEAT = timedelta(seconds=45)
"""An assessment sends a heartbeat after each group of attacks. The longest group takes a few seconds. After a worker's
start it takes about ten, because the services of the canary tenants are connected first."""
EXAMINE_DEADLINE = timedelta(minutes=5)
"""How long an assessment is retried while servers fail; it stays due and starts again within a minute."""
EXAMINATION = timedelta(minutes=10)

ERASE_ATTEMPT = timedelta(minutes=10)
"""Years of usage and thousands of services are destroyed in batches."""
DESTROY_HEARTBEAT = timedelta(seconds=2)
"""After this time another worker continues the destruction of a dead worker. A living one sends a heartbeat every half
second."""

REPORT_ATTEMPT = timedelta(minutes=2)
"""A report reads a year of a tenant's stream and renders pages, with heartbeats."""
REPORT_DEADLINE = timedelta(minutes=30)
"""How long a report waits for unreachable servers; afterwards the caller requests it again."""

RENEWAL_PAUSE = timedelta(hours=1)
"""The pause after a rejected renewal. The first attempt is made with a third of the certificate's lifetime left, which
allows about twenty attempts."""
BY_HAND_PAUSE = timedelta(days=1)
"""The pause after the end of an appliance's certificate, which only a person replaces."""
SHORTEST_LIFE = timedelta(seconds=1)
"""The shortest time between two renewals, regardless of the certificate."""
DISCOVERED = timedelta(days=7)
"""How long the workflow of a discovered service waits for its agent. Afterwards any request starts a new one."""
FIRST_REQUEST = timedelta(minutes=1)
"""How long a service's workflow runs without an accepted request: its first request was rejected."""
