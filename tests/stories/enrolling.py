"""An agent by hand, with nothing of ours in it but HTTP; and a platform that says of its workloads who they are."""

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
    """One that knows an address and has a proof."""

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

    def ask(self, service: str, kind: str, **proof: str) -> httpx2.Response:
        body = {"service": service, "kind": kind, "csr": self.csr} | proof
        return httpx2.post(self.found["enrolment"]["url"], json=body, timeout=30)

    def enrol(self, service: str, kind: str, **proof: str) -> dict[str, Any]:
        """Ask, wait for what comes of it, and keep it."""
        taken = self.ask(service, kind, **proof)
        assert taken.status_code == 202, taken.text
        standing: dict[str, Any] = {}

        def settled() -> bool:
            ticket = {"authorization": f"Bearer {taken.json()['ticket']}"}
            standing.update(httpx2.get(taken.json()["status_url"], headers=ticket, timeout=30).json())
            return standing["state"] != "pending"

        wait_until(settled, lambda: f"the enrolment is still pending: {standing}")
        if standing["state"] == "issued":
            self._keep(standing)
        return standing

    def post(self, path: str, body: dict[str, Any]) -> httpx2.Response:
        """Ask the crypto service as the service that the certificate names."""
        context = ssl.create_default_context(cafile=self.folder / "ca.pem")
        context.load_cert_chain(self.folder / "client.pem", self.folder / "client.key")
        return httpx2.post(f"{self.found['regions'][0]['https']}{path}", json=body, verify=context, timeout=30)

    def _keep(self, standing: dict[str, Any]) -> None:
        key = self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (self.folder / "client.key").write_bytes(key)
        (self.folder / "client.pem").write_text(standing["certificate"] + standing["chain"])
        (self.folder / "ca.pem").write_text(standing["ca"])
