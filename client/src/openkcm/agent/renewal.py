"""Renewal: fetch the newest certificate from the crypto service and write it into the folder.

The connection to the crypto service authenticates with the certificate in the folder.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import structlog
from cryptography import x509

from openkcm.agent.certificate_validation import Issued, is_valid, root_of, serial_of, verify_issued
from openkcm.agent.config import AgentConfig
from openkcm.agent.enrolment_client import EnrolmentClient
from openkcm.agent.errors import AnswerNotUnderstood, ControlUnavailable
from openkcm.agent.schedule import ServerClock, use_server_time
from openkcm.agent.state import AgentState, save_state
from openkcm.contract.client_files import (
    AUTHORITY,
    CERTIFICATE,
    CONFIGURATION,
    KEY,
    MONGODB_PEM,
    Offer,
    configuration,
)
from openkcm.contract.services import ServiceKind
from openkcm.credentials.store import CredentialStore
from openkcm.sdk.client import Client, Options
from openkcm.sdk.errors import ClientError
from openkcm.sdk.identity import Identity
from openkcm.sdk.protocol import Retry

log = structlog.get_logger()


class Connection:
    """A client of the crypto service, recreated for each new certificate; every method raises `ClientError`."""

    def __init__(self, folder: CredentialStore, clock: ServerClock) -> None:
        self._folder, self._clock = folder, clock
        self._client: Client | None = None
        self._url = ""

    def use(self, url: str) -> None:
        """Connect to `url` with the certificate that is in the folder now."""
        self.close()
        self._url = url

    def newest_certificate(self) -> dict[str, Any]:
        return self._open().newest_certificate()

    def heartbeat(self, report: Mapping[str, Any]) -> dict[str, Any]:
        return self._open().heartbeat(report)

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def _open(self) -> Client:
        if self._client is None:
            path = self._folder.path
            identity = Identity(path / CERTIFICATE, path / KEY, path / AUTHORITY)
            use_server_time(self._clock, identity.context)
            self._client = Client(self._url, identity, replace(_OPTIONS, saw_date=self._clock.learn))
        return self._client


class Renewal:
    def __init__(  # noqa: PLR0913, PLR0917 - its collaborators
        self,
        job: AgentConfig,
        folder: CredentialStore,
        state: AgentState,
        control: EnrolmentClient,
        connection: Connection,
        clock: ServerClock,
    ) -> None:
        self._job, self._folder, self._state = job, folder, state
        self._control, self._connection, self._clock = control, connection, clock

    def fetch(self) -> None:
        """Fetch and write the newest recorded certificate; this also completes an interrupted write.

        Raises: ClientError, ControlUnavailable, AnswerNotUnderstood, FolderRefused.
        """
        self._find_address()
        self._take(self._connection.newest_certificate())

    def _take(self, answer: dict[str, object]) -> None:
        """Verify and write the certificate of the response."""
        certificate, chain = str(answer.get("certificate", "")), str(answer.get("chain", ""))
        try:
            root = root_of(chain) or x509.load_pem_x509_certificate((self._folder.read(AUTHORITY) or "").encode())
        except ValueError:
            raise AnswerNotUnderstood("the folder's CA file is damaged", "connect the service again") from None
        issued = verify_issued(certificate, chain, root, self._folder.tenant_id, self._job.service)
        if not self._folder.holds_key_of(certificate):
            raise AnswerNotUnderstood("the newest certificate is for another key", "run one agent for each folder")
        if is_valid(issued.leaf, self._clock.now()):
            self.write(issued)

    def write(self, issued: Issued) -> None:
        """Write the issued files, the certificate last: if it is there, so is everything else."""
        offer = Offer(self._state.https, self._state.kmip)
        pair = issued.presented + self._folder.key_pem()
        files = {AUTHORITY: issued.root}
        files |= configuration(self._job.kind, self._job.service, self._job.seen_as, offer, pair)
        if self._folder.write_changed(files | {CERTIFICATE: issued.presented}):
            log.info("files written", until=issued.leaf.not_valid_after_utc.isoformat(), serial=serial_of(issued.leaf))

    def follow_certificate(self) -> None:
        """Write MongoDB's file of certificate and key again if it differs from the folder's; raises FolderRefused."""
        presented = self._folder.read(CERTIFICATE)
        if self._job.kind is ServiceKind.MONGODB and presented is not None:
            for file in self._folder.write_changed({MONGODB_PEM: presented + self._folder.key_pem()}):
                log.info("certificate and key written", file=file)

    def _find_address(self) -> None:
        """Find the crypto service's address for a folder that this agent did not create."""
        if self._state.https:
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
            self._state.https, self._state.kmip = https, kmip
            save_state(self._folder, self._state)
            return
        raise ControlUnavailable("no region's crypto service accepts the certificate", "check --url")


_OPTIONS = Options(connect_seconds=5.0, connections=2, retry=Retry(attempts=1))
"""The agent's loop waits and retries, since a signal can interrupt it."""
