"""The base of all repositories."""

from psycopg import Connection
from psycopg.rows import TupleRow


class Repository:
    """The rows of some tables that one transaction reads and writes for its tenant."""

    def __init__(self, connection: Connection[TupleRow], tenant_id: str) -> None:
        self.connection = connection
        self.tenant_id = tenant_id
