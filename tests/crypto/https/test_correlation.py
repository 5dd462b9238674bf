import pytest

from crypto.correlation import from_request_id, from_traceparent, new_correlation_id

_TRACE = b"0af7651916cd43dd8448eb211c80319c"


@pytest.mark.parametrize("value", [b"a", b"order-7_x.Y", b"a" * 64])
def test_a_well_formed_request_id_is_taken(value: bytes):
    assert from_request_id(value) == value.decode()


@pytest.mark.parametrize("value", [b"", b"a" * 65, b"a b", b"a\n", b"\xc3\xa4", b"<x>", b"a;b"])
def test_any_other_request_id_is_not(value: bytes):
    assert from_request_id(value) is None


def test_the_trace_id_of_a_traceparent_is_taken():
    assert from_traceparent(b"00-" + _TRACE + b"-b7ad6b7169203331-01") == _TRACE.decode()


@pytest.mark.parametrize(
    "value", [b"", b"00-" + b"0" * 32 + b"-b7ad6b7169203331-01", b"00-" + _TRACE.upper() + b"-b7ad6b7169203331-01"]
)
def test_a_malformed_traceparent_is_not(value: bytes):
    assert from_traceparent(value) is None


def test_ids_that_are_made_are_well_formed_and_differ():
    made = {new_correlation_id() for _ in range(100)}
    assert len(made) == 100
    assert all(from_request_id(one.encode()) == one for one in made)
