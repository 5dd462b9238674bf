"""Column keys are wrapped and opened by the crypto service, which also says at once when there may be none any more."""

import os
from collections.abc import Callable
from typing import TypeVar

from crypto.client import Client
from crypto.client_errors import AccessRefused, CiphertextRefused, ClientError, KeyVersionRetired, RootKeyFailed
from hooks.crypto_service import CryptoService
from hooks.keys import CannotOpen, Ends
from hooks.watching import Watch

Result = TypeVar("Result")

_ENDS = {
    AccessRefused: Ends.ALL_KEYS,
    RootKeyFailed: Ends.ALL_KEYS,
    CiphertextRefused: Ends.THE_KEY,
    KeyVersionRetired: Ends.THE_KEY,
}
"""Only what the crypto service itself has said no to; anything else may be nobody's decision."""


class ServiceKeySource:
    """Safe to use from several threads, and after a fork."""

    def __init__(self, service: CryptoService) -> None:
        self._service = service
        self._watch = Watch(service.hold)
        os.register_at_fork(after_in_child=self._watch.forked)

    def make(self, resource: str) -> str:
        return self._ask(lambda client: client.new_wrapped_data_key(resource))

    def open(self, wrapped: str, resource: str) -> bytes:
        opened = self._ask(lambda client: client.open_data_key(wrapped, resource))
        self._watch.want()
        return opened

    def when_changed(self, look: Callable[[], bool]) -> None:
        self._watch.tell(look)

    def _ask(self, call: Callable[[Client], Result]) -> Result:
        try:
            return self._service.ask(call)
        except ClientError as refused:
            ends = _ENDS.get(type(refused), Ends.NOTHING)
            raise CannotOpen(refused.code, refused.detail, refused.hint, ends) from None
