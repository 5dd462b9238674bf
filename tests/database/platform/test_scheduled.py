"""Scheduled work comes in the order of its last attempt, and a region's requests displace no other region's."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import pytest

from core.scheduled import ScheduledTask
from database.connection.database import Database
from database.platform.retention import RetentionQueries
from database.platform.scheduled import PlatformQueries
from tests.database.fixtures import Field
from tests.database.templates import filled_template, two_tenants

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
OLD_CERTIFICATES = (
    "update okcm.service_certificate set not_before = now() - interval '3 days', not_after = now() - interval '1 day'"
)
OLD_CHECKPOINTS = (
    "alter table okcm.audit_signed_head disable trigger append_only;"
    "update okcm.audit_signed_head set signed_at = now() - interval '100 days';"
    "alter table okcm.audit_signed_head enable always trigger append_only"
)
OLD_KEYS = "update okcm.key set rotated_at = now() - interval '800 days' where kind = 'L2'"
DUE: dict[ScheduledTask, tuple[str, Callable[[PlatformQueries, RetentionQueries], Sequence[str]]]] = {
    ScheduledTask.AUDIT_ARCHIVE: (
        OLD_CHECKPOINTS,
        lambda _, retention: retention.archivable_streams(datetime.now(UTC) - 90 * DAY, 9),
    ),
    ScheduledTask.CA_RETIREMENT: (
        f"{OLD_CERTIFICATES}; update okcm.certificate_authority set state = 'former'",
        lambda queries, _: queries.outlived_authorities(9),
    ),
    ScheduledTask.CA_ROTATION: (
        "update okcm.certificate_authority set recorded_at = now() - interval '300 days', not_after = now()",
        lambda queries, _: queries.due_authorities(9),
    ),
    ScheduledTask.EXPIRY: (
        OLD_CERTIFICATES,
        lambda queries, _: list(dict.fromkeys(row.tenant_id for row in queries.expiring(99))),
    ),
    ScheduledTask.REVOCATION_LISTS: (
        "update okcm.certificate_revocation_list set this_update = now() - interval '13 hours', next_update = now()",
        lambda queries, _: queries.stale_revocation_lists(12 * HOUR, 9),
    ),
    ScheduledTask.ROOT_KEY_VERSIONS: (
        "update okcm.root_key set probe = 'vault:v1:probe'",
        lambda queries, _: [row.tenant_id for row in queries.numbered_root_keys()],
    ),
    ScheduledTask.ROTATIONS: (OLD_KEYS, lambda queries, _: queries.due_rotations(9)),
    ScheduledTask.ROW_RETENTION: (
        "update okcm.service_request set used_at = now() - interval '100 days'",
        lambda _, retention: [row[0] for row in retention.tenants_with_expired_rows("service_request", 90, 9)],
    ),
    ScheduledTask.STALLED_ROTATIONS: (
        OLD_KEYS,
        lambda queries, _: [row.tenant_id for row in queries.stuck_rotations(HOUR, HOUR, 9)],
    ),
    ScheduledTask.UNUSED_CREDENTIALS: (
        "update okcm.root_key_request set sealed = 'sealed', requested_at = now() - interval '1 hour'",
        lambda queries, _: queries.untaken_credentials(9),
    ),
}
"""For each task the statement that makes its work due, and its query."""

template = filled_template(two_tenants(active=True, root_keys=True))


@pytest.mark.parametrize("task", ScheduledTask)
def test_tenants_with_the_oldest_attempt_come_first(field: Field, worker: Database, task: ScheduledTask) -> None:
    statement, query = DUE[task]
    with field.administrator() as administrator:
        administrator.execute(statement)

    def attempt(tenant_id: str) -> list[str]:
        with worker.tenant_tx(tenant_id) as tx:
            tx.tenants.record_attempt(task)
        return list(query(PlatformQueries(worker), RetentionQueries(worker)))

    first, second = query(PlatformQueries(worker), RetentionQueries(worker))
    assert {first, second} == {"acme", "beta"}
    assert attempt(first) == [second, first]
    assert attempt(second) == [first, second]


def test_limit_of_pending_enrolments_holds_for_each_region(field: Field) -> None:
    with field.administrator() as administrator:
        administrator.execute(
            "update okcm.tenant set region = 'eu-central-1' where tenant_id = 'beta';"
            " insert into okcm.enrolment (tenant_id, enrolment_id, service, kind, proof, proof_hash, key_hash,"
            "                             ticket_hash, requested_at)"
            " select e.tenant_id, md5(n::text), e.service, e.kind, e.proof, md5(n::text) || md5(n::text), e.key_hash,"
            "        md5(n::text) || md5(n::text), now() - interval '1 hour'"
            " from okcm.enrolment e, generate_series(1, 3) n where e.tenant_id = 'acme'"
        )
    found = PlatformQueries(field.open("marketplace")).pending_enrolments(2)
    assert [(tenant_id, region) for tenant_id, _, region, _ in found] == [
        *[("acme", "eu-west-1")] * 2,
        ("beta", "eu-central-1"),
    ]
