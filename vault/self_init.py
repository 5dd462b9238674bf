"""The desired state as OpenBao `initialize` blocks: the server builds itself, and no root token ever exists."""

import json
from collections.abc import Mapping

from vault.setup import ACCESSOR, Fields, FileText, Scalar, SetupRequest, Wanted, WithAccessor, desired_state

_BLOCK = "openkcm"


def self_init_stanzas(wanted: Wanted) -> str:
    """Return the desired state as OpenBao `initialize` blocks, to be put into the server's configuration.

    They run once, on the first boot; a failure there is final (the server refuses to unseal ever after), so the
    launcher must wipe the data folder of a server that never got up.
    """
    # Self-initialisation makes no recovery key, and without one a later change of the static seal key silently does
    # nothing and locks the server out for good. This makes one; nobody learns it, which rotation does not need.
    recovery = SetupRequest("recovery", "sys/rotate/recovery/init", {"secret_shares": 1, "secret_threshold": 1})
    requests = "\n".join(_stanza(request) for request in (*desired_state(wanted), recovery))
    return f'initialize "{_BLOCK}" {{\n{requests}\n}}\n'


def _stanza(request: SetupRequest) -> str:
    data = "" if request.operation == "read" else f"\n    data = {_hcl(request.data)}"
    return (
        f"  request {json.dumps(request.name)} {{\n"
        f"    operation = {json.dumps(request.operation)}\n"
        f"    path = {json.dumps(request.path)}{data}\n"
        "  }"
    )


def _hcl(value: "Scalar | Fields") -> str:
    """Return a value as HCL, whose strings take JSON's escapes."""
    match value:
        case FileText(path):
            return _hcl({"eval_type": "string", "eval_source": "file", "path": str(path.resolve())})
        case WithAccessor(text, read_as):
            # Go's text/template: all but the accessor is a string constant, for the policy has braces of its own.
            answer = f'{{{{ (index .responses "{_BLOCK}" "{read_as}").data.accessor }}}}'
            template = answer.join(f"{{{{ {json.dumps(part)} }}}}" for part in text.split(ACCESSOR))
            return _hcl({"eval_type": "string", "eval_source": "template", "template": template})
        case Mapping():
            return "{ " + ", ".join(f"{name} = {_hcl(inner)}" for name, inner in value.items()) + " }"
        case tuple():
            return json.dumps(list(value))
        case _:
            return json.dumps(value)
