from crypto_service.correlation import from_request_id, from_traceparent, new_correlation_id

_TRACE = b"0af7651916cd43dd8448eb211c80319c"


def test_only_well_formed_request_and_trace_ids_are_accepted():
    for value in (b"a", b"order-7_x.Y", b"a" * 64):
        assert from_request_id(value) == value.decode()
    for value in (b"", b"a" * 65, b"a b", b"a\n", b"\xc3\xa4", b"<x>", b"a;b"):
        assert from_request_id(value) is None
    parent = b"00-%b-b7ad6b7169203331-01"
    assert from_traceparent(parent % _TRACE) == _TRACE.decode()
    for value in (b"", parent % (b"0" * 32), parent % _TRACE.upper()):
        assert from_traceparent(value) is None


def test_new_ids_are_well_formed_and_unique():
    made = {new_correlation_id() for _ in range(100)}
    assert len(made) == 100
    assert all(from_request_id(one.encode()) == one for one in made)
