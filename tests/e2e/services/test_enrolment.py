"""An agent beside a service discovers OpenKCM, presents an attestation, and receives a certificate."""

import base64
import hashlib
import json
import ssl
import uuid

from config.secrets import Role
from tests.e2e.services.enrolling import Agent
from tests.e2e.stack import SEED_EVENT, Stack

SECRET = base64.b64encode(b"a record").decode()


def assert_encrypts(agent: Agent) -> None:
    sealed = agent.post("/v1/encrypt", {"resource": "orders/1", "plaintext": SECRET})
    assert sealed.status_code == 200, sealed.text
    decrypted = agent.post("/v1/decrypt", {"resource": "orders/1", "ciphertext": sealed.json()["ciphertext"]})
    assert decrypted.json()["plaintext"] == SECRET


def assert_in_no_log_and_no_row(stack: Stack, *attestations: str) -> None:
    logs = (stack.settings.state_dir / "logs").rglob("*")
    written = "".join(file.read_text(errors="replace") for file in logs if file.is_file())
    assert "/v1/enrolments" in written
    written += "\n".join(stack.rows().values())
    assert [one for one in attestations if one in written] == []


def test_an_agent_with_a_join_token_gets_a_certificate_that_encrypts(stack, tenant, tmp_path):
    made = stack.command("service", "join-token", tenant, "--kind", "postgresql", "--name", "enrolled-db")
    assert f"openkcm agent --url {stack.settings.enrolment_url} " in made["agent_command"]
    assert made["join_token"] not in made["agent_command"]
    agent = Agent(stack.settings.marketplace_url, tmp_path / "agent")
    prefix, tenant_id, secret, fingerprint = made["join_token"].split(".")
    assert (prefix, tenant_id) == ("okcmj1", tenant)
    root = ssl.PEM_cert_to_DER_cert(agent.found["ca"])
    assert hashlib.sha256(root).hexdigest() == agent.found["ca_sha256"]
    assert agent.found["ca_sha256"].startswith(fingerprint)

    issued = agent.enrol("enrolled-db", "postgresql", join_token=made["join_token"])

    assert (issued["state"], issued["tenant_id"], issued["service"]) == ("issued", tenant, "enrolled-db")
    assert issued["https"] == agent.found["regions"][0]["https"]
    assert_encrypts(agent)
    second = Agent(stack.settings.marketplace_url, tmp_path / "second")
    refused = second.ask("enrolled-db", "postgresql", join_token=made["join_token"])
    assert (refused.status_code, refused.json()["code"]) == (401, "attestation_rejected")
    assert stack.services(tenant)["enrolled-db"]["state"] == "connected"
    assert_in_no_log_and_no_row(stack, secret)


def test_an_agent_with_a_jwt_of_the_platform_gets_a_certificate_that_encrypts(stack, tenant, platform, tmp_path):
    agent = Agent(stack.settings.marketplace_url, tmp_path / "agent")
    assert agent.found["enrolment"]["proofs"] == ["join_token", "jwt"]
    refused = agent.ask("spoken-for", "microservice", jwt=platform.token(tenant, "another"))
    assert (refused.status_code, refused.json()["code"]) == (401, "attestation_rejected")
    token = platform.token(tenant, "spoken-for")
    issued = agent.enrol("spoken-for", "microservice", jwt=token)
    assert (issued["state"], issued["kind"]) == ("issued", "microservice")
    assert_encrypts(agent)
    assert_in_no_log_and_no_row(stack, *token.split(".")[1:])


def test_a_discovered_service_is_connected_by_its_agent(stack, tenant, platform, tmp_path):
    event = {name: value for name, value in SEED_EVENT.items() if name != "organization"}
    event |= {"event": "service_discovered", "customer": tenant, "workload": "found-db", "kind": "postgresql"}
    body = json.dumps(event).encode()
    for _ in range(2):
        assert stack.post(body, stack.sign(body, f"msg_{uuid.uuid4().hex}")).status_code == 202
    with stack.database(Role.OPERATOR).tenant_tx(tenant) as tx:
        assert [row.service for row in tx.enrolments.discovered()].count("found-db") == 1
        assert tx.services.get("found-db") is None
    agent = Agent(stack.settings.marketplace_url, tmp_path / "agent")
    agent.enrol("found-db", "postgresql", jwt=platform.token(tenant, "found-db"))
    assert_encrypts(agent)
    runs = [run for run, _ in stack.workflows(f'TenantId = "{tenant}" and WorkflowType = "ConnectService"')]
    assert runs.count(f"tenant/{tenant}/service/found-db") == 1
