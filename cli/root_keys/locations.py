"""The options for the reference of a root key; the same for every command that takes one.

Each provider has its own options. An option of another provider is wrong usage and not ignored: a caller who specifies
`--token` for OpenBao has probably exposed a token in the process list.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Protocol

import typer

from cli.connections import Tenant
from cli.root_keys.credentials import FileRefused, Source
from core.keys.root_keys import Place, RootKeyMode, parse_place
from openkcm.cli import output
from openkcm.contract.names import parse_tenant_id

_LONGEST_CA = 32_768
_NEEDED = {
    RootKeyMode.PLATFORM: (),
    RootKeyMode.AWS_KMS: ("key_arn",),
    RootKeyMode.PKCS11: ("token", "key"),
    RootKeyMode.OPENBAO: ("address", "key"),
}
_MORE = {
    RootKeyMode.PLATFORM: (),
    RootKeyMode.AWS_KMS: ("role_arn", "access_key_id", "credentials"),
    RootKeyMode.PKCS11: ("credentials",),
    RootKeyMode.OPENBAO: ("mount", "namespace", "role_id", "ca", "credentials"),
}
_NOT_OF_THE_PLACE = ("access_key_id", "credentials", "ca")

_AWS, _HSM, _BAO = "aws-kms", "pkcs11", "openbao"


class Act(Protocol):
    """The body of a command: takes a tenant's id, a root key reference and the source of its credentials."""

    def __call__(self, tenant_id: str, place: Place, source: Source, *, as_json: bool) -> None: ...


def with_place(act: Act, help_text: str) -> Callable[..., None]:
    """Return the command that parses the options and then calls `act`."""

    def command(  # noqa: PLR0913 - one parameter an option
        tenant: Tenant,
        *,
        provider: Annotated[RootKeyMode, typer.Option(help="Root key provider.")],
        key_arn: Annotated[str | None, typer.Option(help="ARN of the key, not an alias.", rich_help_panel=_AWS)] = None,
        role_arn: Annotated[
            str | None, typer.Option(help="Role to assume; it must require the external id.", rich_help_panel=_AWS)
        ] = None,
        access_key_id: Annotated[
            str | None,
            typer.Option(help="Access key id; its secret is prompted or in --credentials.", rich_help_panel=_AWS),
        ] = None,
        token: Annotated[str | None, typer.Option(help="Label of the token, not secret.", rich_help_panel=_HSM)] = None,
        key: Annotated[str | None, typer.Option(help="Label (pkcs11) or name (openbao) of the key.")] = None,
        address: Annotated[str | None, typer.Option(help="https://host:port.", rich_help_panel=_BAO)] = None,
        mount: Annotated[
            str | None, typer.Option(help="Mount of Transit; default: transit.", rich_help_panel=_BAO)
        ] = None,
        namespace: Annotated[str | None, typer.Option(help="Path of the namespace.", rich_help_panel=_BAO)] = None,
        role_id: Annotated[
            str | None,
            typer.Option(
                help="Role id of an AppRole; the secret id is prompted instead of a token.", rich_help_panel=_BAO
            ),
        ] = None,
        ca: Annotated[
            Path | None,
            typer.Option(help="Trusted CA certificates (PEM); default: the public CAs.", rich_help_panel=_BAO),
        ] = None,
        credentials: Annotated[
            str | None,
            typer.Option(metavar="FILE", help="JSON file of mode 0600, or - for standard input; default: prompt."),
        ] = None,
        as_json: output.AsJson = False,
    ) -> None:
        options = {
            "key_arn": key_arn,
            "role_arn": role_arn,
            "access_key_id": access_key_id,
            "token": token,
            "key": key,
            "address": address,
            "mount": mount,
            "namespace": namespace,
            "role_id": role_id,
            "ca": ca,
            "credentials": credentials,
        }
        given = {name: value for name, value in options.items() if value is not None}
        place = _place(provider, given)
        act(parse_tenant_id(tenant), place, Source(credentials, access_key_id), as_json=as_json)

    command.__doc__ = help_text
    return command


def _place(provider: RootKeyMode, given: dict[str, Any]) -> Place:
    for name in given:
        if name not in {*_NEEDED[provider], *_MORE[provider]}:
            raise typer.BadParameter(_wrong_provider(name, provider), param_hint=_flag(name))
    for name in _NEEDED[provider]:
        if name not in given:
            raise typer.BadParameter(f"required by --provider {provider}", param_hint=_flag(name))
    fields = {name: value for name, value in given.items() if name not in _NOT_OF_THE_PLACE}
    if "ca" in given:
        fields["ca_pem"] = _text(given["ca"])
    return parse_place({"provider": provider, **fields})


def _wrong_provider(name: str, provider: RootKeyMode) -> str:
    own = [mode for mode in RootKeyMode if name in {*_NEEDED[mode], *_MORE[mode]}]
    text = f"it belongs to --provider {' or '.join(own)}, not to {provider}"
    if (name, provider) == ("token", RootKeyMode.OPENBAO):
        text += "; if it was a token of OpenBao, revoke it and pass another with --credentials"
    return text


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _text(file: Path) -> str:
    """Return the text of a PEM file; the reference keeps only its certificates."""
    try:
        with file.open("rb") as stream:
            text = stream.read(_LONGEST_CA + 1)
    except OSError:
        raise FileRefused(f"{file} cannot be read", "specify a PEM file with --ca") from None
    if len(text) > _LONGEST_CA:
        raise FileRefused(f"{file} is too long", f"specify at most {_LONGEST_CA} bytes of PEM with --ca")
    return text.decode(errors="replace")
