import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openkcm.sdk.envelope import LocalKeys, LocalLimits
from openkcm.sdk.errors import CiphertextRefused, ClientError, RequestRefused, ServiceFailed
from openkcm.sdk.protocol import Procedure, Response, Result, Retry, Send, perform
from openkcm.sdk.protocol import new_data_key as new_data_key_call

_RETRY = Retry(attempts=1)


class Service:
    """Answers procedures as the crypto service does, and counts its requests."""

    def __init__(self) -> None:
        self.made, self.opened, self.seconds, self.delay = 0, 0, 0.0, 0.0

    def clock(self) -> float:
        return self.seconds

    def drive(self, procedure: Procedure[Result]) -> Result:
        outcome = None
        while True:
            try:
                step = procedure.send(outcome)
            except StopIteration as end:
                return end.value
            assert isinstance(step, Send)
            self.seconds += self.delay
            outcome = Response(200, self._answer(step.path))

    def _answer(self, path: str) -> bytes:
        if path == "/v1/data-keys":
            self.made += 1
            key = chr(ord("A") + self.made) * 43 + "="
            return f'{{"plaintext": "{_canonical(key)}", "wrapped": "wrapped-{self.made}"}}'.encode()
        self.opened += 1
        return f'{{"plaintext": "{_canonical("B" * 43 + "=")}"}}'.encode()


def _canonical(text: str) -> str:
    return base64.b64encode(base64.b64decode(text)).decode()


@pytest.fixture
def service() -> Service:
    return Service()


def keys(service: Service, **limits: float) -> LocalKeys:
    return LocalKeys(LocalLimits(**limits), service.clock)  # type: ignore[arg-type]  # counts among them are whole


def test_one_data_key_encrypts_many_different_messages(service: Service):
    cache = keys(service)
    messages = {service.drive(cache.encrypt(b"card", "a", _RETRY)) for _ in range(200)}
    assert (len(messages), service.made) == (200, 1)
    assert all(service.drive(cache.decrypt(message, "a", _RETRY)) == b"card" for message in messages)
    assert service.opened == 0


def test_time_of_a_data_key_begins_with_its_request(service: Service):
    """The tenant may be locked while the response is on its way."""
    cache, service.delay = keys(service, seconds=60), 10
    for at, made in ((0, 1), (59, 1), (60, 2)):
        service.seconds = at
        service.drive(cache.encrypt(b"card", "a", _RETRY))
        assert service.made == made


def test_time_of_an_unwrapped_key_begins_with_its_request(service: Service):
    message = service.drive(keys(service).encrypt(b"card", "a", _RETRY))
    cache, service.delay = keys(service, seconds=60), 10
    for at, opened in ((0, 1), (59, 1), (60, 2)):
        service.seconds = at
        assert service.drive(cache.decrypt(message, "a", _RETRY)) == b"card"
        assert service.opened == opened


@pytest.mark.parametrize(("limits", "messages", "made"), [({"messages": 3}, 7, 3), ({"bytes": 10}, 4, 2)])
def test_data_key_is_replaced_at_its_limits(service: Service, limits: dict[str, float], messages: int, made: int):
    cache = keys(service, **limits)
    for _ in range(messages):
        service.drive(cache.encrypt(b"12345", "a", _RETRY))
    assert service.made == made


def test_keys_are_not_used_after_their_expiry(service: Service):
    cache = keys(service, seconds=60)
    message = service.drive(cache.encrypt(b"card", "a", _RETRY))
    service.seconds = 59.9
    service.drive(cache.decrypt(message, "a", _RETRY))
    assert service.opened == 0
    service.seconds = 60.0
    assert service.drive(cache.decrypt(message, "a", _RETRY)) == b"card"
    service.drive(cache.encrypt(b"card", "a", _RETRY))
    assert (service.made, service.opened) == (2, 1)


def test_cache_keeps_at_most_the_allowed_number_of_keys(service: Service):
    cache = keys(service, keys=2, messages=1)
    messages = [service.drive(cache.encrypt(b"card", "a", _RETRY)) for _ in range(3)]
    service.drive(cache.decrypt(messages[2], "a", _RETRY))
    assert service.opened == 0
    service.drive(cache.decrypt(messages[0], "a", _RETRY))
    assert service.opened == 1
    cache.forget()
    service.drive(cache.decrypt(messages[0], "a", _RETRY))
    assert service.opened == 2


def test_message_decrypts_only_with_its_own_resource(service: Service):
    cache = keys(service)
    message = service.drive(cache.encrypt(b"card", "orders/1", _RETRY))
    for other in ("orders/2", "orders/1 ", "o"):
        with pytest.raises(CiphertextRefused):
            service.drive(cache.decrypt(message, other, _RETRY))


@given(st.data(), st.binary(max_size=300))
def test_altered_message_is_rejected_and_other_bytes_cause_no_request(data: st.DataObject, junk: bytes):
    service = Service()
    cache = keys(service)
    with pytest.raises(CiphertextRefused):
        service.drive(cache.decrypt(b"\0" + junk, "a", _RETRY))
    assert service.opened == 0
    message = bytearray(service.drive(cache.encrypt(b"card number", "a", _RETRY)))
    at = data.draw(st.integers(0, len(message) - 1))
    message[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises((CiphertextRefused, RequestRefused)):
        service.drive(cache.decrypt(bytes(message), "a", _RETRY))


@pytest.mark.parametrize("resource", ["", "a" * 513, "\ud800"])
def test_invalid_resource_is_rejected(service: Service, resource: str):
    with pytest.raises(RequestRefused):
        service.drive(keys(service).encrypt(b"card", resource, _RETRY))
    assert service.made == 0


@pytest.mark.parametrize("status", [200, 302, 404, 502])
def test_undocumented_response_raises_service_failed_without_its_content(status: int):
    for body in (b'{"plaintext": "hunter2", "wrapped": 1}', b"<html>hunter2"):
        asked = perform(new_data_key_call("a", wrapped_only=False), _RETRY)
        next(asked)
        with pytest.raises(ClientError, match=r"documented format|rejected") as raised:
            asked.send(Response(status, body))
        assert "hunter2" not in str(raised.value)
        assert status != 200 or isinstance(raised.value, ServiceFailed)
