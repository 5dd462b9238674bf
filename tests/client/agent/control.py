"""A control endpoint over real HTTP according to the enrolment contract, with certificates for the agent."""

import hashlib
import json
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.crypto_service.authority import Issuer, Leaf, pem, root, service_names, signed, tenant_authority

TENANT = "acme-corp-12345"
SERVICE = "orders"


def certify(  # noqa: PLR0917 - a certificate has many fields
    public_key: Any,
    tenant_id: str = TENANT,
    service: str = SERVICE,
    life: timedelta = timedelta(hours=72),
    began: timedelta = timedelta(seconds=2),
    now: datetime | None = None,
) -> x509.Certificate:
    """Issue a certificate of the tenant CA for a public key."""
    issuer, start = tenant_authority(tenant_id), (now or datetime.now(UTC)) - began
    extensions = (
        (x509.SubjectAlternativeName(service_names(tenant_id, service)), True),
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()), False),
    )
    return signed(service, public_key, issuer.certificate.subject, issuer.key, *extensions, start=start, life=life)


def a_join_token(tenant_id: str = TENANT, authority: Issuer | None = None) -> str:
    fingerprint = (authority or root()).certificate.fingerprint(hashes.SHA256()).hex()
    return f"okcmj1.{tenant_id}.{secrets.token_urlsafe(32)}.{fingerprint[:32]}"


@dataclass
class ControlServer:
    """A control endpoint that issues certificates; its fields change the responses."""

    https: str = "https://localhost:1"
    kmip: str = "localhost:5696"
    tokens: dict[str, str] = field(default_factory=dict)
    """Join token → the request for which it was used, empty before."""
    jwts: set[str] = field(default_factory=set)
    life: timedelta = timedelta(hours=72)
    ahead: timedelta = timedelta()
    """The offset of its clock to this machine's."""
    authority: Issuer = field(default_factory=root)
    polls: int = 0
    """Number of polls before a result is available."""
    lose: int = 0
    """Number of lost responses to enrolments."""
    busy: int = 0
    result: dict[str, Any] = field(default_factory=dict)
    """Overrides of an issued result."""
    enrolment_url: str = ""
    redirect: str = ""
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    """Method, path and body of every request."""
    on_issue: Any = None
    now: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))
    port: int = 0

    def __post_init__(self) -> None:
        self._enrolments: dict[str, dict[str, Any]] = {}
        self.start()

    def token(self) -> str:
        made = a_join_token()
        self.tokens[made] = ""
        return made

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def posts(self) -> list[dict[str, Any]]:
        return [json.loads(body) for method, _, body in self.asked if method == "POST"]

    def start(self) -> None:
        """Start the server, on the same port after a stop."""
        control = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                control.answer(self, "")

            def do_POST(self) -> None:
                control.answer(self, self.rfile.read(int(self.headers["content-length"])).decode())

            def date_time_string(self, timestamp: float | None = None) -> str:  # noqa: ARG002 - signature of the base class
                return format_datetime(datetime.now(UTC) + control.ahead, usegmt=True)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = False  # closing waits for handlers, whose errors would appear in another test
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def answer(self, request: BaseHTTPRequestHandler, body: str) -> None:
        self.asked.append((request.command, request.path, body))
        if self.redirect:
            request.send_response(307)
            request.send_header("location", self.redirect)
            request.end_headers()
            return
        status, document = self._answer(request, body)
        if request.command == "POST" and status == 202 and self.lose:
            self.lose -= 1
            request.close_connection = True
            return
        data = json.dumps(document).encode()
        request.send_response(status)
        request.send_header("content-length", str(len(data)))
        if status == 503:
            request.send_header("retry-after", "1")
        request.end_headers()
        request.wfile.write(data)

    def _answer(self, request: BaseHTTPRequestHandler, body: str) -> tuple[int, dict[str, Any]]:
        if request.path == "/.well-known/openkcm":
            return 200, self._discovery()
        if request.path == "/v1/enrolments" and request.command == "POST":
            if self.busy:
                self.busy -= 1
                return 503, {"code": "database_unavailable"}
            return self._enrol(json.loads(body))
        found = self._enrolments.get(request.path.rpartition("/")[2])
        if found is None or request.headers["authorization"] != f"Bearer {found['ticket']}":
            return 404, {"code": "enrolment_unknown"}
        if self.polls:
            self.polls -= 1
            return 200, {"state": "pending"}
        return 200, found["result"] | self.result

    def _discovery(self) -> dict[str, Any]:
        certificate = self.authority.certificate
        return {
            "service": "openkcm",
            "versions": {"enrolment": ["v1"]},
            "regions": [{"region": "eu-west-1", "https": self.https, "kmip": self.kmip}],
            "ca": pem(certificate),
            "ca_sha256": certificate.fingerprint(hashes.SHA256()).hex(),
            "enrolment": {
                "url": self.enrolment_url or f"{self.url}/v1/enrolments",
                "proofs": ["join_token", "jwt"],
                "issuers": [],
                "audience": "openkcm",
            },
        }

    def _enrol(self, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        proof = asked.get("join_token") or asked.get("jwt")
        known = self.tokens.get(proof) if "join_token" in asked else ("" if proof in self.jwts else None)
        if known is None or known not in {"", asked["csr"]}:
            return 401, {"code": "attestation_rejected"}
        if "join_token" in asked:
            self.tokens[proof] = asked["csr"]
        number = hashlib.sha256(asked["csr"].encode()).hexdigest()[:32]
        if number not in self._enrolments:
            key = x509.load_pem_x509_csr(asked["csr"].encode()).public_key()
            leaf = certify(key, life=self.life, now=self.now() + self.ahead)
            if self.on_issue is not None:
                self.on_issue(leaf)
            self._enrolments[number] = {"ticket": secrets.token_urlsafe(16), "result": self._issued(leaf, asked)}
        found = self._enrolments[number]
        return 202, {
            "enrolment_id": number,
            "ticket": found["ticket"],
            "status_url": f"{self.url}/v1/enrolments/{number}",
            "retry_seconds": 1,
        }

    def _issued(self, leaf: x509.Certificate, asked: dict[str, Any]) -> dict[str, Any]:
        return {
            "state": "issued",
            "tenant_id": TENANT,
            "service": asked["service"],
            "kind": asked["kind"],
            "region": "eu-west-1",
            "certificate": pem(leaf),
            "chain": tenant_authority(TENANT).pem + root().pem,
            "ca": root().pem,
            "https": self.https,
            "kmip": self.kmip,
            "not_after": leaf.not_valid_after_utc.isoformat(),
            "problem": None,
        }


def as_leaf(certificate: x509.Certificate) -> Leaf:
    """Return a leaf without a private key, which the stage does not need."""
    return Leaf(certificate, None)  # type: ignore[arg-type]  # the key is never used
