"""The files that a connected service receives: certificates, and configuration for its software.

The command writes these files into a folder, the dashboard delivers them as an archive. A configuration contains
absolute paths, so the service's path of the folder must be known when it is created.
"""

import json
from dataclasses import dataclass

from openkcm.contract.services import ServiceKind
from openkcm.errors import InvalidName

KEY = "client.key"
CERTIFICATE = "client.pem"
AUTHORITY = "ca.pem"
MONGODB_PEM = "mongodb.pem"
CONFIGURATION = "client.toml"
"""The Python client reads it; it also exists beside a database, whose programs can use it to encrypt fields."""

_END = "-----END CERTIFICATE-----\n"
_LONGEST_FOLDER = 200


@dataclass(frozen=True, slots=True)
class Offer:
    """The addresses of the crypto service: `https` is a URL, `kmip` is `host:port`."""

    https: str
    kmip: str

    @property
    def kmip_host(self) -> str:
        return self.kmip.rpartition(":")[0]

    @property
    def kmip_port(self) -> int:
        return int(self.kmip.rpartition(":")[2])


def parse_folder(text: str) -> str:
    """Return the absolute path of a service's folder on its own machine, without a trailing slash.

    Raises:
        InvalidName: it is not an absolute path, or contains characters that a configuration file cannot quote.
    """
    folder = text.strip().rstrip("/")
    if not folder.startswith("/") or len(folder) > _LONGEST_FOLDER or not folder.isprintable():
        raise InvalidName(
            "folder", f"an absolute path of at most {_LONGEST_FOLDER} letters, such as /etc/openkcm/orders"
        )
    return folder


def certificates(leaf_pem: str, chain_pem: str) -> tuple[str, str]:
    """Return what the service sends (its certificate and the tenant CA) and the root that it trusts."""
    above = [f"{part}{_END}" for part in chain_pem.split(_END) if part.strip()]
    return leaf_pem + "".join(above[:-1]), above[-1]


def configuration(kind: ServiceKind, name: str, folder: str, offer: Offer, certificate_and_key: str) -> dict[str, str]:
    """Return the configuration files of a service by file name.

    `certificate_and_key` is the PEM file that MongoDB's server and drivers require. It is empty if only the service's
    machine has the key; the machine then has to create that file.
    """
    files = {CONFIGURATION: _openkcm(folder, offer)}
    match kind:
        case ServiceKind.MONGODB:
            files |= {MONGODB_PEM: certificate_and_key} if certificate_and_key else {}
            return files | {"mongod.yaml": _mongod(folder, offer), "csfle.json": _csfle(folder, offer)}
        case ServiceKind.POSTGRESQL:
            return files | {"pg_tde.sql": _pg_tde(name, folder, offer)}
        case ServiceKind.MICROSERVICE:  # pragma: no branch - mypy checks that every case is named
            return files


def _mongod(folder: str, offer: Offer) -> str:
    return f"""\
# A part of mongod.conf, for MongoDB Enterprise and for Percona Server for MongoDB alike; the Community Edition has no
# encryption at rest. It encrypts new data files only, so start with an empty dbPath. It protects disks and copies of
# files, not what the running server is asked for: for that encrypt fields (docs/mongodb.md#try-it).
security:
  enableEncryption: true
  kmip:
    serverName: {_quoted(offer.kmip_host)}
    port: {offer.kmip_port}
    clientCertificateFile: {_quoted(f"{folder}/{MONGODB_PEM}")}
    serverCAFile: {_quoted(f"{folder}/{AUTHORITY}")}
"""


def _csfle(folder: str, offer: Offer) -> str:
    tls = {"tlsCAFile": f"{folder}/{AUTHORITY}", "tlsCertificateKeyFile": f"{folder}/{MONGODB_PEM}"}
    options = {"kms_providers": {"kmip": {"endpoint": offer.kmip}}, "kms_tls_options": {"kmip": tls}}
    return json.dumps(options, indent=2) + "\n"


def _pg_tde(name: str, folder: str, offer: Offer) -> str:
    key = f"{name}-principal"
    return f"""\
-- For Percona's PostgreSQL with pg_tde 2, in the database that is to be encrypted.
CREATE EXTENSION IF NOT EXISTS pg_tde;
SELECT pg_tde_add_database_key_provider_kmip(
    provider_name  => 'openkcm',
    kmip_host      => {_literal(offer.kmip_host)},
    kmip_port      => {offer.kmip_port},
    kmip_cert_path => {_literal(f"{folder}/{CERTIFICATE}")},
    kmip_key_path  => {_literal(f"{folder}/{KEY}")},
    kmip_ca_path   => {_literal(f"{folder}/{AUTHORITY}")}
);
SELECT pg_tde_create_key_using_database_key_provider({_literal(key)}, 'openkcm');
SELECT pg_tde_set_key_using_database_key_provider({_literal(key)}, 'openkcm');
"""


def _openkcm(folder: str, offer: Offer) -> str:
    return f"""\
# For the client in client/src/openkcm/sdk/client.py, which also fetches each renewed certificate into this folder.
https = {_quoted(offer.https)}
kmip = {_quoted(offer.kmip)}
certificate = {_quoted(f"{folder}/{CERTIFICATE}")}
key = {_quoted(f"{folder}/{KEY}")}
ca = {_quoted(f"{folder}/{AUTHORITY}")}
"""


def _quoted(value: str) -> str:
    """Return a string in double quotes; YAML and TOML read JSON strings."""
    return json.dumps(value, ensure_ascii=False)


def _literal(value: str) -> str:
    """Return an SQL string (PostgreSQL, standard_conforming_strings)."""
    return "'" + value.replace("'", "''") + "'"
