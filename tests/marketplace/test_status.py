import json
import logging

from core.tenants.provisioning import Step
from tests.marketplace.conftest import TOKEN, an_event, assert_refused


async def test_status_requires_the_marketplaces_token(endpoint):
    await endpoint.post(an_event())

    refused = await endpoint.client.get("/v1/tenants/acme-corp-12345")

    assert_refused(refused, 401, "unauthorized")
    assert refused.headers["www-authenticate"] == "Bearer"
    assert_refused(await endpoint.show("acme-corp-12345", token=TOKEN + "x"), 401, "unauthorized")


async def test_status_of_unknown_tenant_is_not_found(endpoint):
    assert_refused(await endpoint.show("unknown-corp"), 404, "tenant_unknown")
    assert_refused(await endpoint.show("NOT%20AN%20ID"), 422, "illegal_tenant_id")


async def test_status_of_a_ready_tenant_contains_the_notification_text(endpoint):
    await endpoint.post(an_event())
    before = (await endpoint.show("acme-corp-12345")).json()
    assert (before["state"], before["ready_seconds"], before["announcement"]) == ("requested", None, None)
    endpoint.execute("update okcm.tenant set state = 'active', ready_at = requested_at + interval '1.5 s'")

    shown = (await endpoint.show("acme-corp-12345")).json()

    assert (shown["state"], shown["ready_seconds"], shown["provisioning_slo_breached"]) == ("active", 1.5, False)
    assert shown["dashboard_url"] == "https://cmk.openkcm.io/tenant/acme-corp-12345"
    assert shown["announcement"].startswith("OpenKCM is ready for ACME Corporation!")


async def test_steps_are_shown_by_number_and_name(endpoint):
    await endpoint.post(an_event())
    with endpoint.field.open("worker").tenant_tx("acme-corp-12345") as tx:
        tx.steps.plan("provision/1", tuple(Step))
        tx.steps.retry("provision/1", Step.OPEN_RECORDS, "vault_unavailable")

    steps = (await endpoint.show("acme-corp-12345")).json()["steps"]

    assert [step["number"] for step in steps] == list(range(1, len(Step) + 1))
    assert (steps[0]["name"], steps[0]["state"], steps[0]["attempts"]) == ("plan-provisioning", "retrying", 1)


async def test_unknown_routes_and_methods_return_problem_documents(endpoint):
    assert_refused(await endpoint.client.get("/v2"), 404, "not_found")
    assert_refused(await endpoint.client.get("/v1/events"), 405, "method_not_allowed")


async def test_api_page_loads_no_external_resources(endpoint):
    page = await endpoint.client.get("/docs")

    assert "POST /v1/events" in page.text
    assert not any(word in page.text for word in ("<script", "src=", "http://", "https://"))
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    assert (await endpoint.client.get("/openapi.json")).json()["paths"].keys() == {
        "/v1/events",
        "/v1/tenants/{tenant_id}",
        "/v1/enrolments",
        "/v1/enrolments/{enrolment_id}",
        "/.well-known/openkcm",
        "/healthz",
        "/readyz",
    }
    assert (await endpoint.client.get("/healthz")).json() == {"status": "ok"}


async def test_successful_checks_are_not_logged(endpoint, caplog):
    with caplog.at_level(logging.DEBUG):
        assert (await endpoint.client.get("/healthz")).status_code == 200
        await endpoint.client.get("/v1/tenants/unknown-corp")
    completed = [json.loads(one.message)["path"] for one in caplog.records if "request completed" in one.message]
    assert completed == ["/v1/tenants/unknown-corp"]
