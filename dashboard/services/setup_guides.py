"""The integration guide: tabs by kind, with the steps and complete commands for the service's machine."""

from dataclasses import dataclass

from openkcm.contract.client_files import CERTIFICATE, CONFIGURATION, KEY, MONGODB_PEM
from openkcm.contract.services import ServiceKind

DEFAULT_FOLDER = "/etc/openkcm"
AGENT = "Agent"
"""The tab that is drawn with a join token; the first one of a database, which stops without an agent."""


@dataclass(frozen=True, slots=True)
class Step:
    """A sentence, and the command or program that it refers to."""

    words: str
    command: str = ""


@dataclass(frozen=True, slots=True)
class Guide:
    label: str
    steps: tuple[Step, ...]


def folder_of(service: str) -> str:
    """Return the default folder of a service's files."""
    return f"{DEFAULT_FOLDER}/{service or 'my-service'}"


def request_command(folder: str) -> str:
    """Return the commands that generate a key and a CSR on the service's machine."""
    return (
        f"umask 077 && mkdir -p {_shell(folder)} && cd {_shell(folder)}\n"
        f"openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \\\n"
        f"    -subj / -keyout {KEY} -out client.csr\n"
        "cat client.csr"
    )


def unpack_command(archive: str, folder: str) -> str:
    """Return the command that unpacks a downloaded archive into its folder."""
    return f"umask 077 && unzip -o {archive} -d {_shell(folder.rpartition('/')[0] or '/')}"


def kept_agent_command(url: str, service: str, kind: ServiceKind, folder: str) -> str:
    """Return the command of an agent for a folder that has a key and a valid certificate; it needs no token."""
    return f"openkcm agent --url {url} --service {service} --kind {kind} --out {_shell(folder)}"


def guides(kind: ServiceKind, folder: str, https: str) -> tuple[Guide, ...]:
    """Return the tabs of a kind, with the agent first where the service stops without it."""
    agent = Guide(AGENT, ())
    match kind:
        case ServiceKind.MONGODB:
            return (agent, *_mongodb(folder))
        case ServiceKind.POSTGRESQL:
            return (agent, *_postgresql(folder))
        case ServiceKind.MICROSERVICE:  # pragma: no branch - mypy checks that every case is named
            return (*_microservice(folder, https), agent)


def _mongodb(folder: str) -> tuple[Guide, ...]:
    return (
        Guide(
            "Encryption at rest",
            (
                Step("MongoDB Enterprise or Percona Server for MongoDB; the Community Edition has none."),
                Step(
                    f"MongoDB needs key and certificate in one file. If {MONGODB_PEM} is not in the folder, create it:",
                    f"umask 077 && cd {_shell(folder)} && cat {CERTIFICATE} {KEY} > {MONGODB_PEM}",
                ),
                Step(
                    "Start mongod with the delivered configuration and an **empty** dbPath. It encrypts new data "
                    "files only.",
                    f"mongod --config {_shell(f'{folder}/mongod.yaml')} --dbpath /var/lib/mongodb-encrypted",
                ),
            ),
        ),
        Guide(
            "Field encryption",
            (
                Step("Every edition, with an unchanged Python application. List the fields under **Fields…** first."),
                Step(
                    "Start the application. The program renews its certificate in the folder (`docs/mongodb.md`).",
                    f"openkcm run --folder {_shell(folder)} -- python app.py",
                ),
            ),
        ),
        Guide(
            "Driver",
            (
                Step(
                    "Client-side field level encryption with MongoDB's drivers, with every edition. The drivers do not "
                    "renew the certificate: run the agent.",
                    "import json\n\n"
                    "from pymongo.encryption_options import AutoEncryptionOpts\n\n"
                    f'with open("{folder}/csfle.json") as file:\n'
                    '    options = AutoEncryptionOpts(key_vault_namespace="openkcm.keys", **json.load(file))',
                ),
            ),
        ),
    )


def _postgresql(folder: str) -> tuple[Guide, ...]:
    return (
        Guide(
            "Column encryption",
            (
                Step(
                    "Every PostgreSQL, with an unchanged Python application. List the fields under **Fields…** first."
                ),
                Step(
                    "Start the application. The program renews its certificate in the folder (`docs/postgresql.md`).",
                    f"openkcm run --folder {_shell(folder)} -- python app.py",
                ),
            ),
        ),
        Guide(
            "File encryption",
            (
                Step(
                    "Percona's PostgreSQL with pg_tde 2. Run the delivered statements in the database, and create "
                    "tables `USING tde_heap`. Existing tables are not encrypted by this (`docs/postgresql-tde.md`).",
                    f"psql --file {_shell(f'{folder}/pg_tde.sql')} my_database",
                ),
            ),
        ),
    )


def _microservice(folder: str, https: str) -> tuple[Guide, ...]:
    return (
        Guide(
            "Python",
            (
                Step(
                    f"The client reads `{CONFIGURATION}` in the folder and stores each renewed certificate there.",
                    "from openkcm.sdk.client import Client\n\n"
                    f'with Client.from_folder("{folder}") as kcm:\n'
                    '    ciphertext = kcm.encrypt(b"a record", "orders/1")\n'
                    '    print(kcm.decrypt(ciphertext, "orders/1"))',
                ),
            ),
        ),
        Guide(
            "HTTPS",
            (
                Step(
                    "Every client with a client certificate can use the API (`docs/microservices.md`). It must fetch "
                    "`GET /v1/certificate` before the certificate expires, or run the agent.",
                    f"cd {_shell(folder)} && curl --cert {CERTIFICATE} --key {KEY} --cacert ca.pem \\\n"
                    '    --json \'{"resource": "orders/1", "plaintext": "YSByZWNvcmQ="}\' \\\n'
                    f"    {https}/v1/encrypt",
                ),
            ),
        ),
    )


def _shell(text: str) -> str:
    """Return the text quoted as one shell word."""
    return "'" + text.replace("'", "'\\''") + "'"
