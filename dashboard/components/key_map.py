"""The map of a tenant's keys: root key and tenant key both wrap each service key. A chart, and the same facts as text.

A service key is stored as `L1.wrap(L2.encrypt(L3))`: neither key alone decrypts it
(tests/activities/services/test_services.py::test_service_key_needs_both_root_and_tenant_key_to_be_unwrapped).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any

import streamlit as st

from core.keys.rotation import KeyState
from core.names import l2_key
from core.services import ServiceState
from core.tenants.lifecycle import DECRYPTS, ENCRYPTS, State
from core.tenants.locks import HEALTHY
from dashboard.components.formatting import count, listed
from dashboard.components.selection import newly_selected
from database.keys import KeyRow, KeyVersionRow
from database.services.repository import ServiceRow
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

DRAWN = 12
"""Service keys in the chart, which then fits beside a table; the text names all."""
_LONGEST_NAME = 18
_ROW_PIXELS, _LEAST_PIXELS = 23, 170


class KeyStatus(StrEnum):
    """What a service key allows now."""

    ENCRYPTS = "Encrypt + decrypt"
    DECRYPTS = "Decrypt only"
    COMPROMISED = "Compromised"
    UNUSED = "Not connected"
    LOCKED = "Locked"


# Dark enough for white text (WCAG AA) in light and dark. None is green: the state is stored and not measured.
_COLORS: Mapping[KeyStatus, str] = MappingProxyType(
    {
        KeyStatus.ENCRYPTS: "#1d4ed8",
        KeyStatus.DECRYPTS: "#92400e",
        KeyStatus.COMPROMISED: "#b91c1c",
        KeyStatus.UNUSED: "#475569",
        KeyStatus.LOCKED: "#b91c1c",
    }
)
_WRAPPING_COLOR, _FAILING_COLOR, _SELECTED_COLOR = "#6d28d9", "#b91c1c", "#f59e0b"


@dataclass(frozen=True, slots=True)
class MappedKey:
    """The key of one service: its newest version and what it allows now."""

    service: str
    version: int
    status: KeyStatus


@dataclass(frozen=True, slots=True)
class KeyMap:
    """Root key, tenant key and service keys of a tenant.

    `problem` is the error code of a failing customer's root key, empty for a working one. `version` is that of the
    tenant key, None before its creation.
    """

    root: str
    problem: str
    tenant_key: str
    version: int | None
    services: tuple[MappedKey, ...]


def mode(root_key_mode: str) -> str:
    """Return the label of a root key provider."""
    return MODES.get(root_key_mode, root_key_mode)


def key_map(
    tenant: TenantRow,
    keys: Sequence[KeyRow],
    service_keys: Sequence[KeyVersionRow],
    services: Sequence[ServiceRow],
    health: str = HEALTHY,
) -> KeyMap:
    """Return the map from stored rows; `health` is that of the customer's root key."""
    name = l2_key(tenant.tenant_id)
    version = next((key.version for key in keys if key.name == name), None)
    versions: dict[str, list[KeyVersionRow]] = {}
    for key in service_keys:
        versions.setdefault(key.service, []).append(key)
    connected = {service.service: service for service in services}
    return KeyMap(
        mode(tenant.root_key_mode),
        "" if health == HEALTHY else health,
        name,
        version,
        tuple(
            MappedKey(
                service, max(key.version for key in found), key_status(tenant.state, connected.get(service), found)
            )
            for service, found in sorted(versions.items())
        ),
    )


def key_status(state: State, service: ServiceRow | None, versions: Sequence[KeyVersionRow]) -> KeyStatus:
    """Return what the key of a service allows now, from the states of tenant, service and key versions."""
    if state not in DECRYPTS:
        return KeyStatus.LOCKED
    if service is not None and service.state is ServiceState.DISCONNECTED:
        return KeyStatus.UNUSED
    states = {key.state for key in versions}
    if KeyState.ACTIVE in states:
        return KeyStatus.ENCRYPTS if state in ENCRYPTS else KeyStatus.DECRYPTS
    return KeyStatus.DECRYPTS if KeyState.DEACTIVATED in states else KeyStatus.COMPROMISED


def summary(one: KeyMap) -> str:
    """Return the map in one sentence: the accessible name of the chart."""
    if one.version is None:
        return "The root key exists; the tenant key is not created yet."
    if not one.services:
        return "Root key and tenant key exist; there is no service key yet."
    states = Counter(key.status for key in one.services)
    parts = listed([f"{states[status]:,} {status.value.lower()}" for status in KeyStatus if states[status]])
    wrapped = count(len(one.services), "service key is", "service keys are")
    return f"{wrapped} wrapped by both the root key and the tenant key: {parts}."


def in_words(one: KeyMap) -> tuple[str, ...]:
    """Return the facts of the chart as sentences, with all names in full."""
    root = f"Root key: {one.root}{f', which reports `{one.problem}`' if one.problem else ''}."
    if one.version is None:
        return root, "Tenant key: not created yet."
    tenant_key = f"Tenant key: `{one.tenant_key}`, version {one.version}. It never leaves the key server."
    if not one.services:
        return root, tenant_key, "Service keys: none yet. Each connected service gets a dedicated key."
    return (
        root,
        tenant_key,
        "Both wrap each service key. Both are required to unwrap it.",
        *(f"`{key.service}`: version {key.version}, {key.status}." for key in one.services),
    )


def options(one: KeyMap, selected: str | None = None) -> dict[str, Any]:
    """Return the ECharts options; the first nodes are the drawn services.

    Root key and tenant key are at the sides, so that both visibly point to each service key.
    """
    drawn = drawn_services(one, selected)
    nodes = [_service_node(key, row, selected) for row, key in enumerate(drawn)]
    if more := len(one.services) - len(drawn):
        nodes.append(_node("more", f"and {more:,} more", 1, len(nodes), _COLORS[KeyStatus.UNUSED]))
    if not nodes:
        nodes.append(_node("more", "No service key yet", 1, 0, _COLORS[KeyStatus.UNUSED]))
    wrapped = [node["id"] for node in nodes] if one.services else []
    middle, last = (len(nodes) - 1) / 2, max(len(nodes) - 1, 1)
    color = _FAILING_COLOR if one.problem else _WRAPPING_COLOR
    nodes.append(_node("root", "Root key", 0, middle, color, f"Root key: {one.root}", wide=False))
    tenant = "not created yet" if one.version is None else f"version {one.version}"
    nodes.append(_node("tenant", "Tenant key", 2, middle, _WRAPPING_COLOR, f"Tenant key: {tenant}", wide=False))
    hidden = {"type": "value", "show": False}
    return {
        "animation": False,
        "tooltip": {"trigger": "item", "formatter": "{b}"},
        "grid": {"left": 50, "right": 50, "top": 20, "bottom": 20},
        "xAxis": {**hidden, "min": 0, "max": 2},
        "yAxis": {**hidden, "min": 0, "max": last, "inverse": True},
        "series": [
            {
                "type": "graph",
                "coordinateSystem": "cartesian2d",
                "layout": "none",
                "selectedMode": "single",
                "lineStyle": {"opacity": 0.6},
                "label": {"show": True, "fontSize": 11, "color": "#ffffff"},
                "data": nodes,
                "links": [{"source": above, "target": below} for above in ("root", "tenant") for below in wrapped],
            }
        ],
    }


def drawn_services(one: KeyMap, selected: str | None = None) -> tuple[MappedKey, ...]:
    """Return the services in the chart, in order: the first ones, and always the selected one."""
    first, others = one.services[:DRAWN], one.services[DRAWN:]
    chosen = next((key for key in others if key.service == selected), None)
    return first if chosen is None else (*first[:-1], chosen)


def height(one: KeyMap) -> int:
    """Return the height of the chart in pixels."""
    return max(_LEAST_PIXELS, 40 + _ROW_PIXELS * min(len(one.services), DRAWN + 1))


def service_at(one: KeyMap, position: int, selected: str | None = None) -> str | None:
    """Return the service of a clicked node; None for any other node."""
    drawn = drawn_services(one, selected)
    return drawn[position].service if position < len(drawn) else None


def draw(one: KeyMap, *, key: str, selected: str | None = None) -> str | None:
    """Draw chart and text; return the service that the user has just clicked, once for each click."""
    event = st.echarts_chart(
        options(one, selected), height=height(one), key=key, on_select="rerun", renderer="svg", alt=summary(one)
    )
    with st.expander("Key map as text", icon=":material/notes:", key=f"{key}.text"):
        st.markdown("\n".join(f"- {words}" for words in in_words(one)))
    positions = [
        index
        for group in event.selection.selected
        if group.get("data_type") == "node"
        for index in group["data_indices"]
    ]
    clicked = service_at(one, positions[0], selected) if positions else None
    return newly_selected(key, clicked)


def _service_node(key: MappedKey, row: int, selected: str | None) -> dict[str, Any]:
    words = f"{key.service}: version {key.version}, {key.status}"
    node = _node(f"service/{key.service}", key.service, 1, row, _COLORS[key.status], words)
    if key.service == selected:
        node["itemStyle"] |= {"borderColor": _SELECTED_COLOR, "borderWidth": 3}
    return node


def _node(  # noqa: PLR0913, PLR0917 - a node: identity, texts, place, look
    node_id: str, label: str, column: int, row: float, color: str, words: str = "", *, wide: bool = True
) -> dict[str, Any]:
    return {
        "id": node_id,
        "name": words or label,
        "value": [column, row],
        "symbol": "roundRect",
        "symbolSize": [118, 18] if wide else [82, 32],
        "itemStyle": {"color": color},
        "label": {"formatter": _short(label)},
    }


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
