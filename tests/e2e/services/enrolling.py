"""A minimal agent that uses only HTTP, and a platform that issues JWTs for its workloads."""

import json
import secrets
import ssl
import time
from pathlib import Path
from typing import Any

import httpx2
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from joserfc import jwk, jwt

from tests.concurrency import wait_until

ISSUER = "https://tokens.platform.example"


class Issuer:
    def __init__(self, folder: Path) -> None:
        self._key, self._file = jwk.ECKey.generate_key("P-256"), folder / "keys.json"
        self._file.write_text(json.dumps({"keys": [self._key.as_dict(private=False)]}))

    def settings(self) -> dict[str, Any]:
        return {ISSUER: {"jwks": str(self._file)}}

    def token(self, tenant_id: str, service: str, **changed: Any) -> str:
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "aud": "openkcm",
            "iat": now,
            "exp": now + 600,
            "jti": secrets.token_hex(8),
            "openkcm_tenant": tenant_id,
            "openkcm_service": service,
        }
        return jwt.encode({"alg": "ES256"}, claims | changed, self._key)


class Agent:
    """An agent with an address and an attestation."""

    def __init__(self, url: str, folder: Path) -> None:
        self.found = httpx2.get(f"{url}/.well-known/openkcm").json()
        self.folder = folder
        folder.mkdir(mode=0o700)
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.csr = (
            x509.CertificateSigningRequestBuilder()
            .subject_name(x509.Name([]))
            .sign(self.key, hashes.SHA256())
            .public_bytes(serialization.Encoding.PEM)
            .decode()
        )

    def ask(self, service: str, kind: str, **attestation: str) -> httpx2.Response:
        body = {"service": service, "kind": kind, "csr": self.csr} | attestation
        return httpx2.post(self.found["enrolment"]["url"], json=body, timeout=30)

    def enrol(self, service: str, kind: str, **attestation: str) -> dict[str, Any]:
        """Request a certificate, wait for the result and store it."""
        accepted = self.ask(service, kind, **attestation)
        assert accepted.status_code == 202, accepted.text
        status: dict[str, Any] = {}

        def finished() -> bool:
            ticket = {"authorization": f"Bearer {accepted.json()['ticket']}"}
            status.update(httpx2.get(accepted.json()["status_url"], headers=ticket, timeout=30).json())
            return status["state"] != "pending"

        wait_until(finished, lambda: f"the enrolment is still pending: {status}")
        if status["state"] == "issued":
            self._keep(status)
        return status

    def post(self, path: str, body: dict[str, Any]) -> httpx2.Response:
        """Send a request to the crypto service with the certificate."""
        context = ssl.create_default_context(cafile=self.folder / "ca.pem")
        context.load_cert_chain(self.folder / "client.pem", self.folder / "client.key")
        return httpx2.post(f"{self.found['regions'][0]['https']}{path}", json=body, verify=context, timeout=30)

    def _keep(self, status: dict[str, Any]) -> None:
        key = self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (self.folder / "client.key").write_bytes(key)
        (self.folder / "client.pem").write_text(status["certificate"] + status["chain"])
        (self.folder / "ca.pem").write_text(status["ca"])
