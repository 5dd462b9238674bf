"""The end of the demonstration: a connected service encrypts a record before the customer's eyes."""

import json

import pytest


@pytest.fixture(scope="module")
def records(stack, acme, tmp_path_factory):
    folder = tmp_path_factory.mktemp("records") / "customer-records"
    stack.command("service", "connect", acme, "--kind", "microservice", "--name", "records", "--out", str(folder))
    return folder


def test_a_record_is_encrypted_and_opens_in_its_place_only(stack, records):
    told = stack.command("service", "try", str(records), "--record", "Jane Roe", "--resource", "customers/7")
    assert told["decrypted"] == "Jane Roe"
    assert told["ciphertext"].startswith("okcm:v1:")
    assert told["opens_elsewhere"] is False


def test_a_folder_that_is_none_of_a_service_is_refused_with_a_hint(stack, tmp_path):
    refused = stack.run("service", "try", str(tmp_path), "--json")
    error = json.loads(refused.stdout)["error"]
    assert refused.returncode == 1
    assert (error["code"], bool(error["hint"])) == ("certificate_unusable", True)


def test_a_disconnected_service_is_refused_with_a_hint(stack, acme, records):
    stack.command("service", "disconnect", acme, "records")
    refused = stack.run("service", "try", str(records), "--json")
    error = json.loads(refused.stdout)["error"]
    assert refused.returncode == 1
    assert (error["code"], bool(error["hint"])) == ("caller_refused", True)
