"""An agent beside my service finds OpenKCM, proves which service it is, and has a certificate that encrypts."""

import base64
import hashlib
import json
import ssl
import uuid

from config.secrets import Role
from tests.stories.enrolling import Agent
from tests.stories.stack import SEED_EVENT

SECRET = base64.b64encode(b"a record").decode()


def assert_encrypts(agent: Agent) -> None:
    sealed = agent.post("/v1/encrypt", {"resource": "orders/1", "plaintext": SECRET})
    assert sealed.status_code == 200, sealed.text
    opened = agent.post("/v1/decrypt", {"resource": "orders/1", "ciphertext": sealed.json()["ciphertext"]})
    assert opened.json()["plaintext"] == SECRET


def test_a_join_token_becomes_a_certificate_that_encrypts(stack, acme, tmp_path):
    made = stack.command("service", "join-token", acme, "--kind", "postgresql", "--name", "enrolled-db")
    assert f"openkcm agent --url {stack.settings.enrolment_url} " in made["agent_command"]
    assert made["join_token"] not in made["agent_command"]
    agent = Agent(stack.settings.marketplace_url, tmp_path / "agent")
    prefix, tenant_id, _, fingerprint = made["join_token"].split(".")
    assert (prefix, tenant_id) == ("okcmj1", acme)
    root = ssl.PEM_cert_to_DER_cert(agent.found["ca"])
    assert hashlib.sha256(root).hexdigest() == agent.found["ca_sha256"]
    assert agent.found["ca_sha256"].startswith(fingerprint)

    standing = agent.enrol("enrolled-db", "postgresql", join_token=made["join_token"])

    assert (standing["state"], standing["tenant_id"], standing["service"]) == ("issued", acme, "enrolled-db")
    assert standing["https"] == agent.found["regions"][0]["https"]
    assert_encrypts(agent)
    thief = Agent(stack.settings.marketplace_url, tmp_path / "thief")
    refused = thief.ask("enrolled-db", "postgresql", join_token=made["join_token"])
    assert (refused.status_code, refused.json()["code"]) == (401, "proof_refused")
    services = {one["service_id"]: one for one in stack.command("service", "list", acme)["services"]}
    assert services["enrolled-db"]["state"] == "connected"


def test_the_platforms_word_becomes_a_certificate_that_encrypts(stack, acme, platform, tmp_path):
    agent = Agent(stack.settings.marketplace_url, tmp_path / "agent")
    assert agent.found["enrolment"]["proofs"] == ["join_token", "jwt"]
    refused = agent.ask("spoken-for", "microservice", jwt=platform.token(acme, "another"))
    assert (refused.status_code, refused.json()["code"]) == (401, "proof_refused")
    standing = agent.enrol("spoken-for", "microservice", jwt=platform.token(acme, "spoken-for"))
    assert (standing["state"], standing["kind"]) == ("issued", "microservice")
    assert_encrypts(agent)


def test_a_discovered_service_waits_for_its_agent_and_is_connected_by_it(stack, acme, platform, tmp_path):
    event = {name: value for name, value in SEED_EVENT.items() if name != "organization"}
    event |= {"event": "service_discovered", "workload": "found-db", "kind": "postgresql"}
    body = json.dumps(event).encode()
    for _ in range(2):
        assert stack.post(body, stack.sign(body, f"msg_{uuid.uuid4().hex}")).status_code == 202
    with stack.database(Role.OPERATOR).tenant_tx(acme) as tx:
        assert [row.service for row in tx.enrolments.discovered()].count("found-db") == 1
        assert tx.services.get("found-db") is None
    agent = Agent(stack.settings.marketplace_url, tmp_path / "agent")
    agent.enrol("found-db", "postgresql", jwt=platform.token(acme, "found-db"))
    assert_encrypts(agent)
    runs = [run for run, _ in stack.workflows(f'TenantId = "{acme}" and WorkflowType = "ConnectService"')]
    assert runs.count(f"tenant/{acme}/service/found-db") == 1


def test_what_the_tenants_state_refuses_is_told_to_the_agent(stack, platform, tmp_path):
    tenant = "enrol-corp-1"
    stack.enable(tenant, "Enrol Corporation")
    stack.command("tenant", "suspend", tenant)
    agent = Agent(stack.settings.marketplace_url, tmp_path / "agent")
    standing = agent.enrol("orders", "microservice", jwt=platform.token(tenant, "orders"))
    assert (standing["state"], standing["problem"]["code"]) == ("refused", "tenant_closed")
    assert standing["problem"]["hint"]


def test_no_proof_is_in_a_log_a_row_or_a_history(stack, acme, platform, tmp_path):
    made = stack.command("service", "join-token", acme, "--kind", "microservice", "--name", "quiet")
    token = platform.token(acme, "quiet-too")
    for number, (name, proof) in enumerate(
        {"quiet": {"join_token": made["join_token"]}, "quiet-too": {"jwt": token}}.items()
    ):
        agent = Agent(stack.settings.marketplace_url, tmp_path / f"agent-{number}")
        assert agent.enrol(name, "microservice", **proof)["state"] == "issued"
    secrets = [made["join_token"].split(".")[2], *token.split(".")[1:]]
    logs = "".join(
        file.read_text(errors="replace") for file in (stack.settings.state_dir / "logs").rglob("*") if file.is_file()
    )
    assert "/v1/enrolments" in logs
    with stack.owner() as owner:
        tables = owner.execute(
            "select relname from pg_class where relnamespace = 'okcm'::regnamespace and relkind = 'r'"
        )
        rows = "".join(
            str(owner.execute(f"select t::text from okcm.{table} t").fetchall()) for (table,) in tables.fetchall()
        )
    for secret in secrets:
        assert secret not in logs
        assert secret not in rows
