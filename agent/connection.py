"""The agent's connection to the crypto service, by the certificate in the folder."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from agent.clock import Clock, check_dates_by
from agent.folder import ServiceFolder
from crypto.client import Client, Options
from crypto.client_calls import Retry
from crypto.client_identity import Identity
from tenancy.client_files import AUTHORITY, CERTIFICATE, KEY

_OPTIONS = Options(connect_seconds=5.0, connections=2, retry=Retry(attempts=1))
"""Waiting and trying again are the loop's, which can be stopped meanwhile."""


class Connection:
    """Made anew when there is a new certificate; every method raises `crypto.client.ClientError`."""

    def __init__(self, folder: ServiceFolder, clock: Clock) -> None:
        self._folder, self._clock = folder, clock
        self._client: Client | None = None
        self._url = ""

    def use(self, url: str) -> None:
        """Speak to `url` with what is in the folder from now on."""
        self.close()
        self._url = url

    def newest_certificate(self) -> dict[str, Any]:
        return self._open().newest_certificate()

    def heartbeat(self, told: Mapping[str, Any]) -> dict[str, Any]:
        return self._open().heartbeat(told)

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def _open(self) -> Client:
        if self._client is None:
            path = self._folder.path
            identity = Identity(path / CERTIFICATE, path / KEY, path / AUTHORITY)
            check_dates_by(self._clock, identity.context)
            self._client = Client(self._url, identity, replace(_OPTIONS, saw_date=self._clock.learn))
        return self._client
