"""The control endpoint: where OpenKCM is, and an enrolment there.

What is sent to it may be a secret that lets anybody be the service, so it is sent only to whom we know: over https
whose certificate the system or `--ca-file` vouches for, or to this very machine; and only when the authority it names
is the one that the proof, or the file, says. Nothing follows a redirect, and no proxy from the environment is asked.
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
    """The root that the crypto service's certificate hangs from."""

    certificate: x509.Certificate

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")

    @property
    def fingerprint(self) -> str:
        return self.certificate.fingerprint(hashes.SHA256()).hex()


@dataclass(frozen=True, slots=True)
class Discovered:
    """What the control endpoint says of itself; `addresses` are the crypto service's, one a region."""

    authority: Authority
    enrolment_url: str
    addresses: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Ticket:
    """Where the result of one enrolment is to be had; the ticket opens that and nothing else."""

    status_url: str
    text: str = field(repr=False)
    retry_seconds: float = 2.0


class ServerBusy(ControlUnavailable):
    """As its base, and when to come again."""

    def __init__(self, wait: float) -> None:
        super().__init__()
        self.wait = wait


class EnrolmentClient:
    def __init__(self, url: str, clock: ServerClock, ca_file: Path | None = None) -> None:
        """Speak to `url`; nothing is sent yet.

        Raises:
            ControlRefused: what would be sent there could be read on the way, or the authority file is none.
        """
        self._url, self._clock = url.rstrip("/"), clock
        self._named = _certificates_of(ca_file)
        parts = urlsplit(self._url)
        self._secure = parts.scheme == "https"
        if not parts.hostname or not (self._secure or (parts.scheme == "http" and _is_this_machine(parts.hostname))):
            raise ControlRefused(f"{url} is neither https nor on this machine", ControlRefused.hint)
        if parts.username is not None or parts.query or parts.fragment:
            raise ControlRefused("the address has more in it than where the endpoint is", "leave out all but the place")
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
        """Return what the endpoint says; nothing secret is sent. Raises ControlUnavailable, AnswerNotUnderstood."""
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

    def refuse_stranger(self, found: Discovered, proof: AttestationEvidence) -> None:
        """Raise AuthorityRefused or ControlRefused unless `proof` may be sent where `found` says."""
        if _origin(found.enrolment_url) != _origin(self._url):
            raise ControlRefused("the control endpoint wants the proof sent elsewhere", "check the address in --url")
        fingerprint = found.authority.fingerprint
        if proof.authority:
            if not fingerprint.startswith(proof.authority):
                raise AuthorityRefused
        elif not self._secure and fingerprint not in self._named:
            raise AuthorityRefused(hint="with a JWT, name the authority with --ca-file where the endpoint has no https")

    def enrol(self, found: Discovered, proof: AttestationEvidence, service: str, kind: str, csr: str) -> Ticket:
        """Send the proof, which `refuse_stranger` let pass, and return where the result is to be had.

        Raises: ProofRefused, ControlUnavailable, AnswerNotUnderstood.
        """
        self.refuse_stranger(found, proof)
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
        """Return what became of an enrolment, None when nobody knows of it any more; raises as `discover`."""
        if _origin(ticket.status_url) != _origin(self._url):
            return None
        status, document = self._ask("GET", ticket.status_url, headers={"authorization": f"Bearer {ticket.text}"})
        if status in {401, 403, 404, 410}:
            return None
        if status != 200 or document.get("state") not in {"pending", "issued", "refused"}:
            raise AnswerNotUnderstood
        return document

    def _ask(self, method: str, url: str, **more: Any) -> tuple[int, dict[str, Any]]:
        """Return status and JSON object; errors carry nothing of what was sent."""
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
    """Return what makes two addresses the same server; of nonsense, one that equals none of ours.

    This machine is the same by each of its names.
    """
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname or ""
    except ValueError:
        return "", "", None
    host = "localhost" if _is_this_machine(host) else host
    return parts.scheme, host, port or {"https": 443, "http": 80}.get(parts.scheme)


def _seconds(value: object) -> float:
    """Return a wait that was asked for, within reason."""
    try:
        return min(max(float(str(value)), 0.1), _LONGEST_WAIT)
    except ValueError:
        return 0.1


def _code_of(document: dict[str, Any]) -> str:
    """Return the code of a problem document, and of anything else no word that a terminal or a log could choke on."""
    code = str(document.get("code", ""))
    return code if _CODE.fullmatch(code) else "without a reason"


def _certificates_of(ca_file: Path | None) -> frozenset[str]:
    """Return the fingerprints of the certificates in a file; raises ControlRefused."""
    if ca_file is None:
        return frozenset()
    try:
        named = x509.load_pem_x509_certificates(ca_file.read_bytes())
    except (OSError, ValueError) as failed:
        raise ControlRefused(f"{ca_file} holds no certificates", "give a file of PEM with --ca-file") from failed
    return frozenset(one.fingerprint(hashes.SHA256()).hex() for one in named)
