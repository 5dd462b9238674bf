"""Fetching the next certificate from the crypto service, and bringing the folder to it.

The agent's connection to the crypto service, by the certificate in the folder.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import structlog
from cryptography import x509

from openkcm.agent.certificate_validation import Issued, checked, is_valid, root_of, serial_of
from openkcm.agent.config import AgentConfig
from openkcm.agent.enrolment_client import EnrolmentClient
from openkcm.agent.errors import AnswerNotUnderstood, ControlUnavailable
from openkcm.agent.schedule import ServerClock, check_dates_by
from openkcm.agent.state import AgentState, remember
from openkcm.contract.client_files import AUTHORITY, CERTIFICATE, CONFIGURATION, KEY, Offer, configuration
from openkcm.credentials.store import CredentialStore
from openkcm.sdk.client import Client, Options
from openkcm.sdk.errors import ClientError
from openkcm.sdk.identity import Identity
from openkcm.sdk.protocol import Retry

log = structlog.get_logger()


class Connection:
    """Made anew when there is a new certificate; every method raises `openkcm.sdk.errors.ClientError`."""

    def __init__(self, folder: CredentialStore, clock: ServerClock) -> None:
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


class Renewal:
    def __init__(  # noqa: PLR0913, PLR0917 - what it works with
        self,
        job: AgentConfig,
        folder: CredentialStore,
        memory: AgentState,
        control: EnrolmentClient,
        connection: Connection,
        clock: ServerClock,
    ) -> None:
        self._job, self._folder, self._memory = job, folder, memory
        self._control, self._connection, self._clock = control, connection, clock

    def fetch(self) -> None:
        """Bring the folder to the newest certificate on record, also where an earlier writing died half way.

        Raises: ClientError, ControlUnavailable, AnswerNotUnderstood, FolderRefused.
        """
        self._find_address()
        self._take(self._connection.newest_certificate())

    def _take(self, answer: dict[str, object]) -> None:
        """Write what the crypto service answered, where it is what the service can use."""
        certificate, chain = str(answer.get("certificate", "")), str(answer.get("chain", ""))
        try:
            root = root_of(chain) or x509.load_pem_x509_certificate((self._folder.read(AUTHORITY) or "").encode())
        except ValueError:
            raise AnswerNotUnderstood("the folder's authority file is damaged", "connect the service again") from None
        issued = checked(certificate, chain, root, self._folder.tenant_id, self._job.service)
        if not self._folder.holds_key_of(certificate):
            raise AnswerNotUnderstood("the newest certificate is for another key", "run one agent for each folder")
        if is_valid(issued.leaf, self._clock.now()):
            self.write(issued)

    def write(self, issued: Issued) -> None:
        """Bring the folder to what was issued. The certificate comes last: where it is everything else is too."""
        offer = Offer(self._memory.https, self._memory.kmip)
        pair = issued.presented + self._folder.key_pem()
        files = {AUTHORITY: issued.root}
        files |= configuration(self._job.kind, self._job.service, self._job.seen_as, offer, pair)
        if self._folder.write_changed(files | {CERTIFICATE: issued.presented}):
            log.info("files written", until=issued.leaf.not_valid_after_utc.isoformat(), serial=serial_of(issued.leaf))

    def _find_address(self) -> None:
        """Know where the crypto service is, in a folder that another hand began."""
        if self._memory.https:
            return
        try:
            named = tomllib.loads(self._folder.read(CONFIGURATION) or "")
        except ValueError:
            named = {}
        addresses = [(str(named["https"]), str(named["kmip"]))] if {"https", "kmip"} <= named.keys() else []
        found = addresses or list(self._control.discover().addresses)
        for https, kmip in found:
            self._connection.use(https)
            try:
                if len(found) > 1:
                    self._connection.newest_certificate()
            except ClientError:
                continue
            self._memory.https, self._memory.kmip = https, kmip
            remember(self._folder, self._memory)
            return
        raise ControlUnavailable("no region's crypto service knows the certificate", "check --url")


_OPTIONS = Options(connect_seconds=5.0, connections=2, retry=Retry(attempts=1))
"""Waiting and trying again are the loop's, which can be stopped meanwhile."""
