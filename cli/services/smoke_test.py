"""`openkcmctl service smoke-test`: a smoke test of a connected microservice."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from openkcm.cli import output
from openkcm.errors import OpenKcmError

_SHOWN = 56


class TrialFailed(OpenKcmError):
    """The crypto service rejected the smoke test or did not respond; has the code and hint of the client."""

    code = "smoke_test_failed"

    def __init__(self, code: str, message: str, hint: str) -> None:
        super().__init__(message, hint)
        self.code = code  # type: ignore[misc] # the code of the client's error


def try_service(
    folder: Annotated[Path, typer.Argument(help="Folder written by `service connect --kind microservice --out`.")],
    *,
    record: Annotated[str, typer.Option(help="Record to encrypt.")] = '{"name": "John Doe"}',
    resource: Annotated[str, typer.Option(help="Resource that the record belongs to.")] = "customers/1",
    as_json: output.AsJson = False,
) -> None:
    """Encrypt and decrypt a record as the service in FOLDER; verify that another resource is rejected."""
    from openkcm.sdk.client import Client  # noqa: PLC0415 - loading it would slow every other command
    from openkcm.sdk.errors import CiphertextRefused, ClientError  # noqa: PLC0415 - loading it would slow every other command

    try:
        with Client.from_folder(folder) as client:
            ciphertext = client.encrypt(record.encode(), resource)
            decrypted = client.decrypt(ciphertext, resource).decode()
            try:
                client.decrypt(ciphertext, f"{resource}/moved")
                moved = True
            except CiphertextRefused:
                moved = False
    except ClientError as refused:
        raise TrialFailed(refused.code, refused.detail, refused.hint) from None
    if decrypted != record or moved:
        raise TrialFailed(
            "smoke_test_failed",
            "the decrypted record differs, or it decrypted for another resource",
            "stop using the service",
        )
    document: dict[str, Any] = {
        "record": record,
        "ciphertext": ciphertext,
        "decrypted": decrypted,
        "opens_elsewhere": moved,
    }
    output.answer(document, as_json=as_json, show=lambda console: _show(console, document))


def _show(console: Console, document: dict[str, Any]) -> None:
    console.print(Text(f"record      {document['record']}"))
    console.print(Text(f"encrypted   {document['ciphertext'][:_SHOWN]}…"))
    console.print(Text(f"decrypted   {document['decrypted']}"))
    console.print(Text("moved       rejected: it decrypts only for its resource"))
