import json
import tomllib

import pytest

from core.errors.services import ServiceConflict
from core.errors.tenants import TenantNotOperational
from core.services import refuse_unconnectable
from core.tenants.lifecycle import State
from openkcm.contract.client_files import Offer, certificates, configuration, parse_folder
from openkcm.contract.services import ServiceKind
from openkcm.errors import InvalidName

OFFER = Offer("https://kcm.example:8443", "kcm.example:5696")
PEM = "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n"


def test_offer_splits_host_and_port():
    assert (OFFER.kmip_host, OFFER.kmip_port) == ("kcm.example", 5696)


@pytest.mark.parametrize("folder", ["", "orders", "/", "/a\nb", "/" + "a" * 200])
def test_folder_that_cannot_be_quoted_is_rejected(folder):
    with pytest.raises(InvalidName):
        parse_folder(folder)


def test_folder_is_stripped_of_spaces_and_trailing_slash():
    assert parse_folder(" /etc/openkcm/orders/ ") == "/etc/openkcm/orders"


def test_chain_is_split_into_sent_certificates_and_trusted_root():
    leaf, authority, root = (PEM.format(name) for name in ("leaf", "authority", "root"))
    assert certificates(leaf, authority + root) == (leaf + authority, root)


def test_mongodb_gets_certificate_and_key_in_one_file_if_the_key_is_known():
    files = configuration(ServiceKind.MONGODB, "orders", "/etc/o'r", OFFER, "both")
    assert files["mongodb.pem"] == "both"
    assert "mongodb.pem" not in configuration(ServiceKind.MONGODB, "orders", "/etc/o", OFFER, "")
    tls = json.loads(files["csfle.json"])["kms_tls_options"]["kmip"]
    assert tls["tlsCertificateKeyFile"] == "/etc/o'r/mongodb.pem"
    assert 'serverName: "kcm.example"\n    port: 5696' in files["mongod.yaml"]


def test_configuration_of_postgresql_and_microservice_names_their_files():
    sql = configuration(ServiceKind.POSTGRESQL, "orders", "/etc/o'r", OFFER, "")["pg_tde.sql"]
    assert "'/etc/o''r/client.key'" in sql
    toml = configuration(ServiceKind.MICROSERVICE, "orders", "/etc/o", OFFER, "")["client.toml"]
    assert tomllib.loads(toml)["https"] == "https://kcm.example:8443"


def test_connection_that_the_workflow_would_reject_is_rejected_before_a_key_is_created():
    refuse_unconnectable(State.ACTIVE, ServiceKind.MONGODB, None)
    refuse_unconnectable(State.ACTIVE, ServiceKind.MONGODB, ServiceKind.MONGODB)
    with pytest.raises(TenantNotOperational):
        refuse_unconnectable(State.SUSPENDED, ServiceKind.MONGODB, None)
    with pytest.raises(ServiceConflict):
        refuse_unconnectable(State.ACTIVE, ServiceKind.MONGODB, ServiceKind.POSTGRESQL)
