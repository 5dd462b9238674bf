import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.client_calls import Answered, Procedure, Result, Retry, Send, perform
from crypto.client_calls import new_data_key as new_data_key_call
from crypto.client_errors import CiphertextRefused, RequestRefused, ServiceFailed
from crypto.client_local import LocalKeys, LocalLimits

_RETRY = Retry(attempts=1)


class Service:
    """Answers the procedures as the crypto service does, and counts what it was asked."""

    def __init__(self) -> None:
        self.made, self.opened, self.seconds = 0, 0, 0.0

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
            outcome = Answered(200, self._answer(step.path))

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


def test_one_data_key_seals_many_messages_and_no_two_are_alike(service: Service):
    cache = keys(service)
    messages = {service.drive(cache.encrypt(b"card", "a", _RETRY)) for _ in range(200)}
    assert (len(messages), service.made) == (200, 1)
    assert all(service.drive(cache.decrypt(message, "a", _RETRY)) == b"card" for message in messages)
    assert service.opened == 0


def test_a_data_key_is_replaced_after_its_messages(service: Service):
    cache = keys(service, messages=3)
    for _ in range(7):
        service.drive(cache.encrypt(b"card", "a", _RETRY))
    assert service.made == 3


def test_a_data_key_is_replaced_before_it_seals_more_bytes_than_it_may(service: Service):
    cache = keys(service, bytes=10)
    for _ in range(4):
        service.drive(cache.encrypt(b"12345", "a", _RETRY))
    assert service.made == 2


def test_keys_are_not_used_after_their_time(service: Service):
    cache = keys(service, seconds=60)
    message = service.drive(cache.encrypt(b"card", "a", _RETRY))
    service.seconds = 59.9
    service.drive(cache.decrypt(message, "a", _RETRY))
    assert service.opened == 0
    service.seconds = 60.0
    assert service.drive(cache.decrypt(message, "a", _RETRY)) == b"card"
    service.drive(cache.encrypt(b"card", "a", _RETRY))
    assert (service.made, service.opened) == (2, 1)


def test_no_more_opened_keys_are_kept_than_allowed(service: Service):
    cache = keys(service, keys=2, messages=1)
    messages = [service.drive(cache.encrypt(b"card", "a", _RETRY)) for _ in range(3)]
    service.drive(cache.decrypt(messages[2], "a", _RETRY))
    assert service.opened == 0
    service.drive(cache.decrypt(messages[0], "a", _RETRY))
    assert service.opened == 1


def test_forgetting_drops_every_key(service: Service):
    cache = keys(service)
    message = service.drive(cache.encrypt(b"card", "a", _RETRY))
    cache.forget()
    service.drive(cache.decrypt(message, "a", _RETRY))
    assert service.opened == 1


def test_a_message_opens_under_its_own_resource_only(service: Service):
    cache = keys(service)
    message = service.drive(cache.encrypt(b"card", "orders/1", _RETRY))
    for other in ("orders/2", "orders/1 ", "o"):
        with pytest.raises(CiphertextRefused):
            service.drive(cache.decrypt(message, other, _RETRY))


@given(st.data())
def test_an_altered_message_never_opens(data: st.DataObject):
    service = Service()
    cache = keys(service)
    message = bytearray(service.drive(cache.encrypt(b"card number", "a", _RETRY)))
    at = data.draw(st.integers(0, len(message) - 1))
    message[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises((CiphertextRefused, RequestRefused)):
        service.drive(cache.decrypt(bytes(message), "a", _RETRY))


@given(st.binary(max_size=300))
def test_bytes_that_are_no_message_are_refused_before_the_service_is_asked(junk: bytes):
    service = Service()
    with pytest.raises(CiphertextRefused):
        service.drive(keys(service).decrypt(b"\0" + junk, "a", _RETRY))
    assert service.opened == 0


@pytest.mark.parametrize("resource", ["", "a" * 513, "\ud800"])
def test_a_resource_that_is_none_is_refused(service: Service, resource: str):
    with pytest.raises(RequestRefused):
        service.drive(keys(service).encrypt(b"card", resource, _RETRY))
    assert service.made == 0


def test_an_answer_that_is_not_as_documented_is_the_services_failure():
    asked = perform(new_data_key_call("a", wrapped_only=False), _RETRY)
    next(asked)
    with pytest.raises(ServiceFailed) as raised:
        asked.send(Answered(200, b'{"plaintext": "hunter2", "wrapped": 1}'))
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("status", [200, 302, 404, 502])
def test_an_answer_of_something_else_than_the_service_raises_a_client_error(status: int):
    asked = perform(new_data_key_call("a", wrapped_only=False), _RETRY)
    next(asked)
    with pytest.raises(Exception, match=r"not as documented|refused") as raised:
        asked.send(Answered(status, b"<html>"))
    assert raised.type.__module__ == "crypto.client_errors"
