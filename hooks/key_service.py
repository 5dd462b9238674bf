"""Column keys are wrapped and opened by the crypto service."""

from collections.abc import Callable
from typing import TypeVar

from crypto.client import Client, ClientError
from hooks.crypto_service import CryptoService
from hooks.keys import CannotOpen

Result = TypeVar("Result")


class ServiceKeySource:
    """Safe to use from several threads, and after a fork."""

    def __init__(self, service: CryptoService) -> None:
        self._service = service

    def make(self, resource: str) -> str:
        return self._ask(lambda client: client.new_wrapped_data_key(resource))

    def open(self, wrapped: str, resource: str) -> bytes:
        return self._ask(lambda client: client.open_data_key(wrapped, resource))

    def _ask(self, call: Callable[[Client], Result]) -> Result:
        try:
            return self._service.ask(call)
        except ClientError as refused:
            raise CannotOpen(refused.code, refused.detail, refused.hint) from None
