"""Every deadline and retry in one place, with the arithmetic that keeps the three-minute promise.

A step's attempt is given up after `ATTEMPT` and tried again after 0.2, 0.4, 0.8, 1.6, 3.2, then every 5 seconds
(with jitter, added by the worker). A worker killed in the middle of a step therefore costs at most ATTEMPT + 5 s,
and a tenant whose every one of the five steps in a row is killed once is still ready in under a minute. There is no
limit on the number of attempts: what cannot be done within the promise raises an alarm and goes on.
"""

from datetime import timedelta

from temporalio.common import RetryPolicy

ATTEMPT = timedelta(seconds=6)
GATE_ATTEMPT = timedelta(seconds=10)
"""The boundary gate makes some thirty calls; the rest make a handful."""

FIRST_RETRY_SECONDS = 0.2
LARGEST_RETRY_SECONDS = 5.0

RETRY = RetryPolicy(
    initial_interval=timedelta(seconds=FIRST_RETRY_SECONDS),
    backoff_coefficient=2.0,
    maximum_interval=timedelta(seconds=LARGEST_RETRY_SECONDS),
)

DELIVERY_ATTEMPT = timedelta(seconds=20)
DELIVERY_PATIENCE = timedelta(minutes=1)
"""How long an operation tries to send its message itself; after that the outbox sweep takes over and the tenant is
free for its next operation."""

HEADS_ATTEMPT = timedelta(minutes=2)
HEARTBEAT = timedelta(seconds=15)
RECONCILE_ATTEMPT = timedelta(hours=1)
"""A day of a busy key server's log, at tens of thousands of lines a second, and as many streams."""

ALARM_PATIENCE = timedelta(minutes=5)
"""How long an hourly look for what to tell people of may hold up the work that comes after it."""

PREFLIGHT_ATTEMPT = timedelta(seconds=30)
"""A preflight makes some eight calls to a customer's server, each of which may take its whole time."""
WRAP_ATTEMPT = timedelta(minutes=10)
WRAP_HEARTBEAT = timedelta(seconds=6)
WRAP_PATIENCE = timedelta(hours=1)
"""How long a change of the root key waits for a root key that is out of reach; the former key is in force meanwhile."""
SETTLE = timedelta(seconds=10)
"""Between the last new wrap and the end of the version before: longer than a customer's key server is waited for by who
has read an old wrap and opens its outer layer."""
RESEAL_PATIENCE = timedelta(minutes=10)
"""How long a rotation waits for objects to be sealed anew; afterwards the hourly look at what is due comes back."""
RESEAL_PAUSE = timedelta(seconds=10)
NOTICE_ATTEMPT = timedelta(minutes=30)
"""Every root key is asked once, eight at a time; those that do not answer make it wait."""
WATCH_ATTEMPT = timedelta(hours=1)
WATCH_HEARTBEAT = timedelta(seconds=4)
"""After so long another worker takes up the watch of one that died."""

EXAMINE_ATTEMPT = timedelta(minutes=2)
EXAMINE_HEARTBEAT = timedelta(seconds=45)
"""An examination beats after each of its groups of attacks. The longest takes a few seconds, and the first time after a
worker's start, when the platform's own tenants have their probes connected, some ten."""
EXAMINE_PATIENCE = timedelta(minutes=5)
"""How long an examination is tried while servers fail; it stays due, and comes back within a minute."""
EXAMINATION = timedelta(minutes=10)

ERASE_ATTEMPT = timedelta(minutes=10)
"""Years of usage are erased piece by piece; a heartbeat says that it goes on."""

REPORT_ATTEMPT = timedelta(minutes=2)
"""A report reads a year of a tenant's stream and is set as pages; a heartbeat says that it goes on."""
REPORT_PATIENCE = timedelta(minutes=30)
"""How long a report waits for servers that are down; afterwards it is asked for again."""

RENEWAL_PAUSE = timedelta(hours=1)
"""How long a renewal rests that was refused, because the tenant is locked for instance; a third of the certificate's
life is left when it is first tried, so some twenty tries."""
SHORTEST_LIFE = timedelta(seconds=1)
"""The least time between two renewals, whatever a certificate says."""
DISCOVERED = timedelta(days=7)
"""How long the workflow of a discovered service waits for its agent. Afterwards any request starts a new one."""
FIRST_REQUEST = timedelta(minutes=1)
"""How long a service's workflow that was started and asked nothing stays: its first request was refused."""
