"""The integration guide: what to do on the service's own machine, by kind. `docs/services.md` argues the steps."""

from openkcm.contract.client_files import AUTHORITY, CERTIFICATE, KEY, MONGODB_PEM
from openkcm.contract.services import ServiceKind

PLACE = "/etc/openkcm"


def folder_of(service: str) -> str:
    """Return where a service's files go unless somebody says otherwise."""
    return f"{PLACE}/{service or 'my-service'}"


def request_command(folder: str) -> str:
    """Return the commands that make a key and a certificate request on the service's own machine."""
    return (
        f"umask 077 && mkdir -p {_shell(folder)} && cd {_shell(folder)}\n"
        f"openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \\\n"
        f"    -subj / -keyout {KEY} -out client.csr\n"
        "cat client.csr"
    )


def unpack_command(archive: str, folder: str) -> str:
    """Return the command that unpacks a delivered archive so that its files lie in their folder."""
    return f"umask 077 && unzip -o {archive} -d {_shell(folder.rpartition('/')[0] or '/')}"


def steps(kind: ServiceKind) -> tuple[str, ...]:
    """Return what to do once the files lie in their folder."""
    match kind:
        case ServiceKind.MONGODB:
            return (
                (
                    f"Where the key was made by the service's own machine, make the one file MongoDB reads: "
                    f"`cat {CERTIFICATE} {KEY} > {MONGODB_PEM}`, readable by its owner alone."
                ),
                (
                    "For encryption at rest (MongoDB Enterprise or Percona Server; the Community Edition has none) "
                    "start mongod with `mongod.yaml` and an **empty** dbPath: it encrypts new data files only."
                ),
                (
                    "To have fields encrypted inside a Python application that stays as it is, with every edition, "
                    "start it with `openkcm run` (`docs/mongodb.md`)."
                ),
                (
                    "For client-side field level encryption by MongoDB's own drivers give the driver the options in "
                    "`csfle.json`; this works with the Community Edition too."
                ),
                (
                    "Certificates live for at most 72 hours, and neither mongod nor the drivers fetch the next one: "
                    "run `openkcm agent` beside it, which does and tells it (`docs/agent.md`)."
                ),
            )
        case ServiceKind.POSTGRESQL:
            return (
                (
                    "Columns, with any PostgreSQL and an unchanged Python application: start it with "
                    "`openkcm run --folder … -- python app.py` (`docs/postgresql.md`)."
                ),
                (
                    "Files, with Percona's PostgreSQL and pg_tde 2: run `pg_tde.sql` in the database that is to be "
                    "encrypted, and make tables `USING tde_heap`. Tables that were there before are not encrypted by "
                    "this (`docs/postgresql-tde.md`)."
                ),
                (
                    "Certificates live for at most 72 hours, and PostgreSQL does not fetch the next one: run "
                    "`openkcm agent` beside it, which does and tells it (`docs/agent.md`)."
                ),
            )
        case ServiceKind.MICROSERVICE:
            return (
                (
                    "Open the folder with the client: `Client.from_folder(...)` of `openkcm.sdk.client`. It reads "
                    "`client.toml`, encrypts, decrypts and hands out data keys."
                ),
                (
                    "Anything that speaks HTTPS with client certificates can do the same: `docs/microservices.md`. "
                    "A Ceph Object Gateway takes its keys from here over KMIP: `docs/object-stores.md`."
                ),
                f"The client fetches each renewed certificate into the folder itself. {AUTHORITY} is whom it trusts.",
            )


def _shell(text: str) -> str:
    """Return one word for a shell."""
    return "'" + text.replace("'", "'\\''") + "'"
