"""A projection that was analysed before has the result of its first analysis."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from openkcm.contract.protected_fields import Mode, ProtectedField, Store
from openkcm.field_encryption.key_cache import ColumnKeys
from openkcm.field_encryption.mongodb.catalog import Collection, catalogue
from openkcm.field_encryption.mongodb.encryption import DatabaseKeys
from openkcm.field_encryption.mongodb.errors import StatementRefused
from openkcm.field_encryption.mongodb.rewrite.projections import projected
from openkcm.field_encryption.mongodb.rewrite.request import Count, Request
from openkcm.field_encryption.usage import UsageReporter
from tests.client.field_encryption.stand import MemoryKeys, MemoryKeyStore

KEYS = DatabaseKeys(ColumnKeys(Store.MONGODB, MemoryKeys(), MemoryKeyStore(), 60.0))
USES = UsageReporter(lambda _: 60.0)
names = st.sampled_from(["_id", "diagnosis", "name", "address", "address.street", "address.city", "diagnosis.a"])
wanted = st.sampled_from([0, 1, True, False, 1.0, "$name", "$diagnosis", {"$literal": 1}, {"street": 1}])


def collection() -> Collection:
    fields = [
        ProtectedField(Store.MONGODB, "clinic.patients", path, Mode.RANDOMISED)
        for path in ("diagnosis", "address.street")
    ]
    return catalogue(fields)["clinic", "patients"]


def outcome(where: Collection, projection: dict[str, Any]) -> Any:
    try:
        return projected(Request(where, KEYS, None, Count(USES)), projection)  # type: ignore[arg-type]  # not needed
    except StatementRefused as refused:
        return str(refused)


@given(st.lists(st.dictionaries(names, wanted, min_size=1, max_size=4), min_size=1, max_size=8))
def test_known_projection_has_the_result_of_a_new_one(projections):
    known = collection()
    for one in [*projections, *projections]:
        assert outcome(known, one) == outcome(collection(), one)
