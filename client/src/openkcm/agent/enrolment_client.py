"""Client of the control endpoint: discovery and enrolment.

An attestation is a secret with which an attacker could enrol as the service. It is therefore sent only over HTTPS with
a certificate that the system or `--ca-file` trusts, or to this machine, and only if the endpoint names the CA that the
attestation or the file names. The client follows no redirect and uses no proxy from the environment.
"""

import re
import ssl
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from openkcm.agent.attestation import AttestationEvidence
from openkcm.agent.errors import (
    AnswerNotUnderstood,
    AuthorityRefused,
    ControlRefused,
    ControlUnavailable,
    EnrolmentRefused,
)
from openkcm.agent.schedule import ServerClock
from openkcm.errors import ProofRefused

_ANSWER_BYTES = 262_144
_RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
_LONGEST_WAIT = 300.0
_CODE = re.compile(r"[a-z][a-z0-9_]{0,59}")


@dataclass(frozen=True, slots=True)
class Authority:
    """The root CA of the crypto service's certificate."""

    certificate: x509.Certificate

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")

    @property
    def fingerprint(self) -> str:
        return self.certificate.fingerprint(hashes.SHA256()).hex()


@dataclass(frozen=True, slots=True)
class Discovered:
    """The discovery document; `addresses` are those of the crypto service, one for each region."""

    authority: Authority
    enrolment_url: str
    addresses: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Ticket:
    """URL of one enrolment's result; the ticket authorizes that request only."""

    status_url: str
    text: str = field(repr=False)
    retry_seconds: float = 2.0


class ServerBusy(ControlUnavailable):
    """The control endpoint asked for a retry after `wait` seconds."""

    def __init__(self, wait: float) -> None:
        super().__init__()
        self.wait = wait


class EnrolmentClient:
    def __init__(self, url: str, clock: ServerClock, ca_file: Path | None = None) -> None:
        """Prepare requests to `url`; nothing is sent yet.

        Raises:
            ControlRefused: the connection would not be protected, or the CA file holds no certificate.
        """
        self._url, self._clock = url.rstrip("/"), clock
        self._named = _certificates_of(ca_file)
        parts = urlsplit(self._url)
        self._secure = parts.scheme == "https"
        if not parts.hostname or not (self._secure or (parts.scheme == "http" and _is_this_machine(parts.hostname))):
            raise ControlRefused(f"{url} is neither https nor on this machine", ControlRefused.hint)
        if parts.username is not None or parts.query or parts.fragment:
            raise ControlRefused("the address has a user name, query or fragment", "give scheme, host and port only")
        context = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
        self._http = httpx2.Client(
            verify=context,
            timeout=httpx2.Timeout(10.0, connect=5.0),
            trust_env=False,
            follow_redirects=False,
            headers={"user-agent": "openkcm-agent/1", "accept": "application/json"},
        )

    def close(self) -> None:
        self._http.close()

    def discover(self) -> Discovered:
        """Return the discovery document; sends no secret. Raises ControlUnavailable, AnswerNotUnderstood."""
        status, document = self._ask("GET", f"{self._url}/.well-known/openkcm")
        if status != 200 or document.get("service") != "openkcm":
            raise AnswerNotUnderstood
        try:
            authority = Authority(x509.load_pem_x509_certificate(str(document["ca"]).encode()))
            versions, enrolment = document["versions"]["enrolment"], str(document["enrolment"]["url"])
            addresses = tuple((str(one["https"]), str(one["kmip"])) for one in document["regions"])
        except (KeyError, TypeError, ValueError):
            raise AnswerNotUnderstood from None
        if "v1" not in versions or document.get("ca_sha256") != authority.fingerprint:
            raise AnswerNotUnderstood
        return Discovered(authority, enrolment, addresses)

    def require_trusted_endpoint(self, found: Discovered, proof: AttestationEvidence) -> None:
        """Raise AuthorityRefused or ControlRefused unless `proof` may be sent to the endpoint that was discovered."""
        if _origin(found.enrolment_url) != _origin(self._url):
            raise ControlRefused("the control endpoint names another server to enrol", "check the address in --url")
        fingerprint = found.authority.fingerprint
        if proof.authority:
            if not fingerprint.startswith(proof.authority):
                raise AuthorityRefused
        elif not self._secure and fingerprint not in self._named:
            raise AuthorityRefused(hint="with a JWT and an endpoint without https, give the CA with --ca-file")

    def enrol(self, found: Discovered, proof: AttestationEvidence, service: str, kind: str, csr: str) -> Ticket:
        """Send the attestation after `require_trusted_endpoint` and return the ticket for the result.

        Raises: ProofRefused, ControlUnavailable, AnswerNotUnderstood.
        """
        self.require_trusted_endpoint(found, proof)
        body = {"service": service, "kind": kind, "csr": csr, proof.kind: proof.text}
        status, document = self._ask("POST", found.enrolment_url, json=body)
        if status in {401, 403}:
            raise ProofRefused
        if 400 <= status < 500:
            raise EnrolmentRefused(_code_of(document))
        try:
            ticket = Ticket(str(document["status_url"]), str(document["ticket"]), _seconds(document["retry_seconds"]))
        except (KeyError, TypeError, ValueError):
            raise AnswerNotUnderstood from None
        if status != 202 or _origin(ticket.status_url) != _origin(self._url):
            raise AnswerNotUnderstood
        return ticket

    def result(self, ticket: Ticket) -> dict[str, Any] | None:
        """Return the result of an enrolment, None when the server does not know it; raises as `discover`."""
        if _origin(ticket.status_url) != _origin(self._url):
            return None
        status, document = self._ask("GET", ticket.status_url, headers={"authorization": f"Bearer {ticket.text}"})
        if status in {401, 403, 404, 410}:
            return None
        if status != 200 or document.get("state") not in {"pending", "issued", "refused"}:
            raise AnswerNotUnderstood
        return document

    def _ask(self, method: str, url: str, **more: Any) -> tuple[int, dict[str, Any]]:
        """Return status and JSON object; errors quote nothing that was sent."""
        try:
            with self._http.stream(method, url, **more) as answer:
                self._clock.learn(answer.headers.get("date", ""))
                if answer.status_code in _RETRIED:
                    raise ServerBusy(_seconds(answer.headers.get("retry-after", "0")))
                content = b""
                for piece in answer.iter_bytes():
                    content += piece
                    if len(content) > _ANSWER_BYTES:
                        raise AnswerNotUnderstood
        except httpx2.HTTPError as failed:
            reason = type(failed).__name__
            raise ControlUnavailable(f"the control endpoint does not answer: {reason}") from None
        except httpx2.InvalidURL:
            raise AnswerNotUnderstood from None
        try:
            document = httpx2.Response(200, content=content).json()
        except ValueError:
            document = None
        return answer.status_code, document if isinstance(document, dict) else {}


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _origin(url: str) -> tuple[str, str, int | None]:
    """Return scheme, host and port, by which two URLs are compared; an invalid URL equals no valid one.

    All names of this machine are equal.
    """
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname or ""
    except ValueError:
        return "", "", None
    host = "localhost" if _is_this_machine(host) else host
    return parts.scheme, host, port or {"https": 443, "http": 80}.get(parts.scheme)


def _seconds(value: object) -> float:
    """Return a requested wait in seconds, limited to a sensible range."""
    try:
        return min(max(float(str(value)), 0.1), _LONGEST_WAIT)
    except ValueError:
        return 0.1


def _code_of(document: dict[str, Any]) -> str:
    """Return the code of a problem document; any other text is dropped, as it could inject into a terminal or log."""
    code = str(document.get("code", ""))
    return code if _CODE.fullmatch(code) else "no reason given"


def _certificates_of(ca_file: Path | None) -> frozenset[str]:
    """Return the fingerprints of the certificates in a file; raises ControlRefused."""
    if ca_file is None:
        return frozenset()
    try:
        named = x509.load_pem_x509_certificates(ca_file.read_bytes())
    except (OSError, ValueError) as failed:
        raise ControlRefused(f"{ca_file} holds no certificates", "give a PEM file with --ca-file") from failed
    return frozenset(one.fingerprint(hashes.SHA256()).hex() for one in named)
