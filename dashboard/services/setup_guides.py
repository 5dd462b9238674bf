"""The integration guide: steps on the service's machine, by kind. `docs/services.md` explains them."""

from openkcm.contract.client_files import AUTHORITY, CERTIFICATE, KEY, MONGODB_PEM
from openkcm.contract.services import ServiceKind

DEFAULT_FOLDER = "/etc/openkcm"


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


def steps(kind: ServiceKind) -> tuple[str, ...]:
    """Return the steps after the files are in their folder."""
    match kind:
        case ServiceKind.MONGODB:
            return (
                (
                    "If the key was generated on the service's machine, create the combined file for MongoDB: "
                    f"`cat {CERTIFICATE} {KEY} > {MONGODB_PEM}`, readable by its owner alone."
                ),
                (
                    "Encryption at rest (MongoDB Enterprise or Percona Server; not in the Community Edition): "
                    "start mongod with `mongod.yaml` and an **empty** dbPath. It encrypts new data files only."
                ),
                (
                    "Field encryption in an unchanged Python application, with every edition: start it with "
                    "`openkcm run` (`docs/mongodb.md`)."
                ),
                (
                    "Client-side field level encryption with MongoDB's drivers: give the driver the options in "
                    "`csfle.json`. This works with the Community Edition too."
                ),
                (
                    "Certificates are valid for at most 72 hours, and neither mongod nor the drivers renew them: "
                    "run `openkcm agent` beside the service, which renews and reloads them (`docs/agent.md`)."
                ),
            )
        case ServiceKind.POSTGRESQL:
            return (
                (
                    "Column encryption with any PostgreSQL and an unchanged Python application: start it with "
                    "`openkcm run --folder … -- python app.py` (`docs/postgresql.md`)."
                ),
                (
                    "File encryption with Percona's PostgreSQL and pg_tde 2: run `pg_tde.sql` in the database, "
                    "and create tables `USING tde_heap`. Existing tables are not encrypted by this "
                    "(`docs/postgresql-tde.md`)."
                ),
                (
                    "Certificates are valid for at most 72 hours, and PostgreSQL does not renew them: run "
                    "`openkcm agent` beside the service, which renews and reloads them (`docs/agent.md`)."
                ),
            )
        case ServiceKind.MICROSERVICE:
            return (
                (
                    "Load the folder with the client: `Client.from_folder(...)` of `openkcm.sdk.client`. It reads "
                    "`client.toml`, encrypts, decrypts and returns data keys."
                ),
                (
                    "Every HTTPS client with a client certificate can use the API: `docs/microservices.md`. A "
                    "Ceph Object Gateway fetches its keys over KMIP: `docs/object-stores.md`."
                ),
                f"The client stores each renewed certificate in the folder. {AUTHORITY} has the trusted CAs.",
            )


def _shell(text: str) -> str:
    """Return the text quoted as one shell word."""
    return "'" + text.replace("'", "'\\''") + "'"
