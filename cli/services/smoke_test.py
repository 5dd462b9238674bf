"""`openkcmctl service smoke-test`: what a connected microservice does, done once before your eyes."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from openkcm.cli import output
from openkcm.errors import OpenKcmError

_SHOWN = 56


class TrialFailed(OpenKcmError):
    """The crypto service refused the trial or did not answer; carries the client's own code and hint."""

    code = "trial_failed"

    def __init__(self, code: str, message: str, hint: str) -> None:
        super().__init__(message, hint)
        self.code = code  # type: ignore[misc] # the refusal brings its code with it


def try_service(
    folder: Annotated[Path, typer.Argument(help="The folder that `service connect --kind microservice --out` wrote.")],
    *,
    record: Annotated[str, typer.Option(help="The record to encrypt.")] = '{"name": "John Doe"}',
    resource: Annotated[str, typer.Option(help="The place it belongs to.")] = "customers/1",
    as_json: output.AsJson = False,
) -> None:
    """Encrypt a record as the service in FOLDER, decrypt it again, and see that it opens nowhere else."""
    from openkcm.sdk.client import Client  # noqa: PLC0415 - loading it would slow every other command
    from openkcm.sdk.errors import CiphertextRefused, ClientError  # noqa: PLC0415 - loading it would slow every other command

    try:
        with Client.from_folder(folder) as client:
            ciphertext = client.encrypt(record.encode(), resource)
            opened = client.decrypt(ciphertext, resource).decode()
            try:
                client.decrypt(ciphertext, f"{resource}/moved")
                moved = True
            except CiphertextRefused:
                moved = False
    except ClientError as refused:
        raise TrialFailed(refused.code, refused.detail, refused.hint) from None
    if opened != record or moved:
        raise TrialFailed(
            "trial_failed", "what was decrypted is not what was encrypted there", "stop using the service"
        )
    document: dict[str, Any] = {
        "record": record,
        "ciphertext": ciphertext,
        "decrypted": opened,
        "opens_elsewhere": moved,
    }
    output.answer(document, as_json=as_json, show=lambda console: _show(console, document))


def _show(console: Console, document: dict[str, Any]) -> None:
    console.print(Text(f"record      {document['record']}"))
    console.print(Text(f"encrypted   {document['ciphertext'][:_SHOWN]}…"))
    console.print(Text(f"decrypted   {document['decrypted']}"))
    console.print(Text("moved       refused: it opens only in its place"))
