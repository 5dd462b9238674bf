"""Parameters of the usual types are written as the general functions write them."""

from collections.abc import Callable
from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from openkcm.contract.protected_fields import Mode, Store
from openkcm.errors import OpenKcmError
from openkcm.field_encryption import value_format as values
from openkcm.field_encryption.key_cache import ColumnKeys
from openkcm.field_encryption.postgresql.catalog import Column, Table
from openkcm.field_encryption.postgresql.execute import bind
from openkcm.field_encryption.postgresql.plan import EncryptedParameter, Parameter, make_plan
from openkcm.field_encryption.usage import UsageCounter
from tests.client.field_encryption.stand import MemoryKeys, MemoryKeyStore

ID = Column("id", 1, "int")
NOTE = Column("note", 2, "text", Mode.RANDOMISED, place=values.column_place("postgresql", "public", "t", "note"))
TABLE = Table(1, "public", "t", True, (ID, NOTE), (ID,), "t_pkey", "", {"note": NOTE})  # noqa: FBT003 - `alone`
SLOT = EncryptedParameter(TABLE, NOTE, Parameter(2), (Parameter(1),))
PLAN = make_plan([b"INSERT ", Parameter(1), b", ", SLOT], (), frozenset(), declares=False, parameters=True)
KEYS = ColumnKeys(Store.POSTGRESQL, MemoryKeys(), MemoryKeyStore(), 60.0)
WRITER = bind.Writer(PLAN, KEYS, UsageCounter(("note",)))

integers = st.integers(-(2**63), 2**63 - 1)
numbers = st.one_of(
    st.tuples(integers.map(lambda one: one.to_bytes(8, "big", signed=True)), st.sampled_from([20, 0, 25]), st.just(1)),
    st.tuples(integers.map(lambda one: str(one).encode()), st.sampled_from([20, 21, 23, 0, 25]), st.just(0)),
    st.tuples(st.none(), st.just(20), st.just(1)),
)
texts = st.tuples(
    st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=20).map(str.encode),
    st.sampled_from([0, 25, 1043, 19, 20, 17]),
    st.sampled_from([0, 1]),
)


def general(query: SimpleNamespace) -> bytes | None:
    """Return the plaintext with its row, as the general functions return them."""
    execution = bind.Execution(query, (), lambda *_: (), 0.0)
    number = bind.key(execution, Parameter(1), TABLE, ID)
    plain = bind.plain_value(execution, Parameter(2), TABLE, NOTE)
    return None if plain is None or number is None else values.row_part([number]) + plain


def written(query: SimpleNamespace) -> bytes | None:
    """Return the plaintext with its row, as decrypted from what is sent."""
    _, (_, stored), *_ = WRITER.written(query, (), lambda *_: ())
    if stored is None:
        return None
    number = bind.key(bind.Execution(query, (), lambda *_: (), 0.0), Parameter(1), TABLE, ID)
    assert number is not None
    part = values.row_part([number])
    sealed, _ = values.from_text(bytes(stored).decode())
    return part + values.unseal(KEYS.newest(("public", "t", "note")), NOTE.place + part, sealed)


def outcome(call: Callable[[SimpleNamespace], bytes | None], query: SimpleNamespace) -> bytes | str | None:
    try:
        return call(query)
    except OpenKcmError as failed:
        return str(failed)


@given(numbers, texts, st.sampled_from([bytes, bytearray, memoryview]))
def test_parameter_is_encrypted_as_the_general_functions_read_it(number, text, kind):
    pair = [None if raw is None else kind(raw) for raw in (number[0], text[0])]
    query = SimpleNamespace(params=pair, types=(number[1], text[1]), formats=[number[2], text[2]])
    assert outcome(written, query) == outcome(general, query)
