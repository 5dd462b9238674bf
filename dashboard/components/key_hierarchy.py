"""The key hierarchy L1 → L2 → L3 of a tenant, as a chart and as text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from core.names import l2_key
from dashboard.components.formatting import listed
from database.keys import KeyRow, KeyVersionRow
from database.tenants import TenantRow

MODES: Mapping[str, str] = MappingProxyType(
    {
        "platform": "Platform-Managed (default)",
        "aws-kms": "Your own key in AWS KMS (BYOK)",
        "pkcs11": "Your own key in your HSM (HYOK)",
        "openbao": "Your own key in your key server (HYOK)",
    }
)
"""Providers of the root key, as shown to the customer."""

_DRAWN = 4
"""One box lists the service keys, so that the chart fits on a phone; more names would not."""
_LONGEST_NAME = 20


@dataclass(frozen=True, slots=True)
class KeyHierarchy:
    """`version` is None without a tenant key; `services` are the names and newest versions of service keys."""

    root: str
    tenant_key: str
    version: int | None
    services: tuple[tuple[str, int], ...]


def mode(root_key_mode: str) -> str:
    """Return the label of a root key provider."""
    return MODES.get(root_key_mode, root_key_mode)


def chain(tenant: TenantRow, keys: Sequence[KeyRow], service_keys: Sequence[KeyVersionRow]) -> KeyHierarchy:
    """Return the hierarchy from the stored rows."""
    name = l2_key(tenant.tenant_id)
    version = next((key.version for key in keys if key.name == name), None)
    newest: dict[str, int] = {}
    for key in service_keys:
        newest[key.service] = max(key.version, newest.get(key.service, 0))
    return KeyHierarchy(mode(tenant.root_key_mode), name, version, tuple(sorted(newest.items())))


def drawing(one: KeyHierarchy) -> str:
    """Return the hierarchy as a Mermaid flowchart; long names are cut, `in_words` has them in full."""
    lines = ["flowchart TD", f'L1["L1 root key<br/>{one.root}"]']
    if one.version is None:
        return "\n".join([*lines, 'L1 -.-> L2["L2 tenant key<br/>not created yet"]'])
    lines.append(f'L1 -->|wraps| L2["L2 tenant key<br/>version {one.version}"]')
    if not one.services:
        return "\n".join([*lines, 'L2 -.-> L3["L3 service keys<br/>none yet"]'])
    names = [_short(service) for service, _ in one.services[:_DRAWN]]
    if len(one.services) > _DRAWN:
        names.append(f"and {len(one.services) - _DRAWN:,} more")
    kind = "L3 service keys" if len(one.services) > 1 else "L3 service key"
    return "\n".join([*lines, f'L2 -->|wraps| L3["{"<br/>".join((kind, *names))}"]'])


def in_words(one: KeyHierarchy) -> tuple[str, ...]:
    """Return the hierarchy as sentences, with all names in full."""
    root = f"L1, the root key: {one.root}."
    if one.version is None:
        return root, "L2, the tenant key: not created yet."
    tenant = (
        f"L2, the tenant key: `{one.tenant_key}`, version {one.version}. Dedicated to your tenant. It never "
        "leaves the key server."
    )
    if not one.services:
        return root, tenant, "L3, the service keys: none yet. Each connected service gets a dedicated key."
    names = listed([f"`{service}` (version {version})" for service, version in one.services])
    return (
        root,
        tenant,
        f"L3, the service keys: {names}. Each is stored only wrapped by L2 and L1; both are required to unwrap it.",
    )


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
