"""The codec server over HTTP, as a separate process with the codec's identity at a real OpenBao."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpx2
import pytest
from google.protobuf.json_format import MessageToDict, ParseDict
from temporalio.api.common.v1 import Payload, Payloads
from temporalio.converter import WorkflowSerializationContext

from config import secrets
from config.secrets import Role, ensure_secret
from core.errors.platform import VaultRefused
from devstack.servers.ports import free_port
from tests.e2e.sockets import listening_addresses
from vault.transit.payload_keys import TransitPayloadKeys
from worker import codec_server
from worker.codec_server import SessionCookies
from worker.payload_codec import ENCODING, PayloadKeyCache, TenantCodec

ROOT = Path(__file__).parents[2]
TOKEN = "codec-token-of-this-test"
ACME = "acme-codec"
SECRET_TEXT = b'{"organization":"ACME Corporation"}'


class Running:
    """The server's process, its address and the origin of its Temporal UI."""

    def __init__(self, folder: Path, vault_address: str, secret_id: str, token: str = TOKEN) -> None:
        self.port, ui_port = free_port(), free_port()
        self.url = f"http://127.0.0.2:{self.port}"
        self.ui_origin = f"http://127.0.0.1:{ui_port}"
        self.log = folder / "codec.log"
        ensure_secret(folder, secrets.CODEC_TOKEN, token)
        ensure_secret(folder, secrets.vault_secret(Role.CODEC), secret_id)
        environment = {
            "OPENKCM_SECRETS_DIR": str(folder),
            "OPENKCM_VAULT_ADDRESS": vault_address,
            "OPENKCM_CODEC_HOST": "127.0.0.2",
            "OPENKCM_CODEC_PORT": str(self.port),
            "OPENKCM_TEMPORAL_UI_PORT": str(ui_port),
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "worker.codec_server"],
                cwd=ROOT,
                env=os.environ | environment,
                stdout=log,
                stderr=log,
            )

    def wait_ready(self) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text(encoding="utf-8")
            try:
                if httpx2.get(f"{self.url}/healthz").is_success:
                    return
            except httpx2.TransportError:
                time.sleep(0.05)
        raise AssertionError("the codec server did not start within 60 s")


@pytest.fixture(scope="module")
def codec(key_server, tmp_path_factory) -> Iterator[Running]:
    secret_id = (key_server.folder / "codec.secret").read_text(encoding="ascii")
    running = Running(tmp_path_factory.mktemp("codec"), key_server.url, secret_id)
    running.wait_ready()
    yield running
    running.process.terminate()
    running.process.wait(60)


def test_token_is_replaced_without_an_interruption(key_server, codec, tmp_path, sealed):
    """`codec` was started before the replacement."""

    def start(folder: Path) -> Running:
        folder.mkdir()
        token = (tmp_path / "setup" / secrets.CODEC_TOKEN).read_text(encoding="utf-8")
        running = Running(folder, key_server.url, (key_server.folder / "codec.secret").read_text("ascii"), token)
        started.append(running)
        running.wait_ready()
        return running

    def decode(server: Running, token: str) -> int:
        return httpx2.post(f"{server.url}/decode", json=body(sealed), headers=bearer(token)).status_code

    def sign_in(server: Running, token: str) -> int:
        return httpx2.post(f"{server.url}/sign-in", data={"token": token}).status_code

    started: list[Running] = []
    ensure_secret(tmp_path / "setup", secrets.CODEC_TOKEN, TOKEN)
    secrets.add_new_values(tmp_path / "setup", [secrets.CODEC_TOKEN])
    new = secrets.read_secret(tmp_path / "setup", secrets.CODEC_TOKEN)
    try:
        within = start(tmp_path / "within")
        assert [decode(server, TOKEN) for server in (codec, within)] == [200, 200]
        assert [decode(server, new) for server in (codec, within)] == [403, 200]
        assert [sign_in(within, token) for token in (new, TOKEN, f"{new}\n{TOKEN}")] == [303, 303, 403]
        secrets.remove_former_values(tmp_path / "setup", [secrets.CODEC_TOKEN])
        after = start(tmp_path / "after")
        assert [decode(server, new) for server in (within, after)] == [200, 200]
        assert (decode(after, TOKEN), sign_in(after, TOKEN)) == (403, 403)
    finally:
        for server in started:
            server.process.terminate()
            server.process.wait(60)


@pytest.fixture
def http(codec) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=codec.url) as client:
        yield client


@pytest.fixture(scope="module")
def keys(key_server) -> TransitPayloadKeys:
    return TransitPayloadKeys(key_server.session("worker"))


@pytest.fixture
async def sealed(keys) -> Payload:
    """Return a payload as a worker writes it into ACME's histories."""
    keyring = PayloadKeyCache(keys)
    keyring.open_platform_key()
    keyring.learn(ACME, *keys.new_data_key(keys.ensure(ACME).name))
    codec = TenantCodec(keyring).with_context(WorkflowSerializationContext("default", f"tenant/{ACME}/provision"))
    [payload] = await codec.encode([Payload(metadata={"encoding": b"json/plain"}, data=SECRET_TEXT)])
    return payload


def body(*payloads: Payload) -> dict[str, Any]:
    return MessageToDict(Payloads(payloads=payloads))


def bearer(token: str = TOKEN) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def test_decode_returns_the_payload_to_a_holder_of_the_token(http, sealed):
    answer = http.post("/decode", json=body(sealed), headers=bearer())
    assert answer.status_code == 200
    [payload] = ParseDict(answer.json(), Payloads()).payloads
    assert payload.data == SECRET_TEXT


@pytest.mark.parametrize(
    "headers",
    [{}, bearer("wrong"), {"authorization": "Bearer"}, {"authorization": TOKEN}, {"cookie": "openkcm_codec=x"}],
)
def test_decode_rejects_requests_without_the_token(http, sealed, headers):
    answer = http.post("/decode", json=body(sealed), headers=headers)
    assert answer.status_code == 403
    assert b"ACME" not in answer.content


def test_sign_in_sets_a_cookie_that_scripts_and_other_sites_cannot_use(http, sealed):
    refused = http.post("/sign-in", data={"token": "wrong"})
    assert refused.status_code == 403
    assert "set-cookie" not in refused.headers

    signed_in = http.post("/sign-in", data={"token": TOKEN})
    assert signed_in.status_code == 303
    assert {"HttpOnly", "SameSite=strict"} <= set(signed_in.headers["set-cookie"].split("; "))
    assert TOKEN not in signed_in.headers["set-cookie"]
    assert http.post("/decode", json=body(sealed)).is_success
    assert "signed in" in http.get("/").text


def test_session_is_accepted_by_each_instance_with_its_token_until_its_end(monkeypatch):
    now = time.time()
    cookie = SessionCookies([TOKEN]).issue()
    assert SessionCookies([TOKEN]).valid(cookie)
    assert SessionCookies(["new", TOKEN]).valid(cookie)
    assert not SessionCookies(["new"]).valid(cookie), "its token was removed"
    until, _, signature = cookie.partition(".")
    for forged in ("", ".", until, f"{until}.", f".{signature}", f"{int(until) + 1}.{signature}", f"é.{signature}"):
        assert not SessionCookies([TOKEN]).valid(forged)
    monkeypatch.setattr(codec_server.time, "time", lambda: now + 8 * 3600 + 1)
    assert not SessionCookies([TOKEN]).valid(cookie)


def test_only_pages_of_the_temporal_ui_may_read_the_response(http, codec):
    def allowed_origin(origin: str) -> str | None:
        asked = {
            "origin": origin,
            "access-control-request-method": "POST",
            "access-control-request-headers": "x-namespace",
        }
        return http.options("/decode", headers=asked).headers.get("access-control-allow-origin")

    assert allowed_origin(codec.ui_origin) == codec.ui_origin
    assert allowed_origin(codec.ui_origin.replace("127.0.0.1", "localhost")) is not None
    for other in ("https://evil.example", "null", f"{codec.ui_origin}.evil.example", codec.ui_origin + "0"):
        assert allowed_origin(other) is None


@pytest.mark.parametrize("path", ["/encode", "/download", "/"])
def test_other_paths_reject_posts(http, path):
    assert http.post(path, json=body(), headers=bearer()).status_code in {404, 405}


def test_identity_cannot_create_a_data_key_or_use_a_tenants_l2_key(key_server):
    session = key_server.session("codec")
    with pytest.raises(VaultRefused):
        TransitPayloadKeys(session).new_data_key(f"payload-{ACME}")
    with pytest.raises(VaultRefused):
        session.write(f"transit/decrypt/L2-{ACME}-primary", {"ciphertext": "vault:v1:AAAA"})


@pytest.mark.parametrize(
    ("content", "status"),
    [
        *((broken, 400) for broken in (b"", b"not json", b'"text"', b'{"payloads": 1}', b'{"secrets": []}', b"\xff")),
        (b"x" * (4 * 1024 * 1024 + 1), 413),
        ([b"x" * (4 * 1024 * 1024 + 1)], 413),
    ],
    ids=["empty", "not json", "text", "no list", "no payloads", "not utf-8", "too long", "too long without a length"],
)
def test_decode_rejects_a_body_that_is_no_payloads_message(http, content, status):
    assert http.post("/decode", content=content, headers=bearer()).status_code == status


def test_large_body_without_a_token_takes_no_memory(http, codec):
    before = peak_memory(codec.process.pid)
    body = (b"token=" + bytes(65530) for _ in range(2048))
    assert http.post("/sign-in", content=body).status_code == 413
    assert peak_memory(codec.process.pid) - before < 32 * 1024


def peak_memory(pid: int) -> int:
    """Return the largest resident memory of a process so far, in KiB."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0])


LABELS = [b"../sys/policies", b"L2-acme-codec-primary", b"audit-checkpoints", b"\xff", b"payload-missing"]


@pytest.mark.parametrize(("field", "value"), [("key", None), ("data-key", None), *(("key", name) for name in LABELS)])
def test_decode_rejects_a_label_that_is_missing_or_names_another_key(http, sealed, field, value):
    if value is None:
        del sealed.metadata[field]
    else:
        sealed.metadata[field] = value
    answer = http.post("/decode", json=body(sealed), headers=bearer())
    assert answer.status_code in {400, 424}
    assert b"ACME" not in answer.content


def test_plain_payload_passes(http):
    plain = Payload(metadata={"encoding": b"json/plain"}, data=b'"ids only"')
    assert http.post("/decode", json=body(plain), headers=bearer()).json() == body(plain)


def test_every_decode_is_logged_with_its_keys_and_without_token_or_text(http, codec, sealed):
    assert sealed.metadata["encoding"] == ENCODING
    http.post("/decode", json=body(sealed), headers=bearer())
    log = codec.log.read_text(encoding="utf-8")
    assert f"payload-{ACME}" in log
    for hidden in (TOKEN, "ACME Corporation", sealed.metadata["data-key"].decode()):
        assert hidden not in log


def test_server_listens_on_loopback_only(codec):
    assert listening_addresses(codec.process.pid) == [(ip_address("127.0.0.2"), codec.port)]
