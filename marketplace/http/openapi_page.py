"""The OpenAPI document as an HTML page without scripts and external resources."""

import json
from html import escape
from typing import Any

POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
_STYLE = (
    ":root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:56rem;margin:2rem auto;"
    "padding:0 1rem}code,pre{font-family:ui-monospace,monospace}pre{overflow:auto;padding:1rem;border:1px solid #8888}"
    "td,th{text-align:left;padding:.2rem 1rem .2rem 0;vertical-align:top}"
)


def render(document: dict[str, Any]) -> str:
    """Return the page for an OpenAPI document."""
    title = escape(document["info"]["title"])
    parts = [
        (
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
            f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body><h1>{title}</h1>'
            f"<p>{escape(document['info'].get('description', ''))}</p>"
            '<p>Machine-readable: <a href="/openapi.json">openapi.json</a></p>'
        )
    ]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            parts.append(f"<h2><code>{escape(method.upper())} {escape(path)}</code></h2>")
            parts.append(f"<p>{escape(operation.get('description', operation.get('summary', '')))}</p>")
            parts.append(_table("Headers and parameters", _parameters(operation)))
            parts.append(_example(operation))
            parts.append(_table("Responses", _answers(operation)))
    parts.append("<h2>Models</h2>")
    for name, schema in document.get("components", {}).get("schemas", {}).items():
        text = json.dumps(schema, indent=1, ensure_ascii=False)
        parts.append(f"<details><summary><code>{escape(name)}</code></summary><pre>{escape(text)}</pre></details>")
    return "".join([*parts, "</body></html>"])


def _parameters(operation: dict[str, Any]) -> list[tuple[str, str]]:
    return [(item["name"], item.get("description", item["in"])) for item in operation.get("parameters", [])]


def _answers(operation: dict[str, Any]) -> list[tuple[str, str]]:
    return [(status, answer["description"]) for status, answer in operation["responses"].items()]


def _example(operation: dict[str, Any]) -> str:
    content = operation.get("requestBody", {}).get("content", {})
    shown = [
        f"<p>Body, <code>{escape(kind)}</code></p><pre>{escape(json.dumps(item['example'], indent=2))}</pre>"
        for kind, item in content.items()
        if "example" in item
    ]
    return "".join(shown)


def _table(caption: str, rows: list[tuple[str, str]]) -> str:
    if not rows:
        return ""
    lines = "".join(f"<tr><th><code>{escape(name)}</code></th><td>{escape(text)}</td></tr>" for name, text in rows)
    return f"<h3>{caption}</h3><table>{lines}</table>"
