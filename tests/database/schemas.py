"""Databases whose schema is older than the processes of this version need."""

from collections.abc import Callable

from database.schema.version import NEWEST
from tests.database.fixtures import Field


def outdate(field: Field) -> Callable[[], None]:
    """Make the schema older, as before the newest migration; return the function that applies it again."""
    with field.administrator() as administrator:
        [row] = administrator.execute(
            "delete from okcm.schema_migration where version = %s returning version, name, sha256", [NEWEST]
        ).fetchall()

    def migrate_again() -> None:
        with field.administrator() as administrator:
            administrator.execute("insert into okcm.schema_migration values (%s, %s, %s)", row)

    return migrate_again
