"""Helm's own library in a separate process: its Go runtime would install signal handlers in that of the tests.

Reads {"chart", "values", "versions"} from standard input. Writes {"reports": version → lint report, "rendered": text}
or {"error": text}.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

NAMESPACE = "kcm"


def run(chart: Path, values: dict[str, Any], *versions: str) -> dict[str, Any]:
    """Lint the chart for each version of Kubernetes and render it; return what the process writes."""
    wanted = {"chart": str(chart), "values": values, "versions": versions}
    done = subprocess.run(
        [sys.executable, __file__], input=json.dumps(wanted), capture_output=True, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    import helm_python  # noqa: PLC0415 - starts the Go runtime

    wanted = json.load(sys.stdin)
    chart, values = wanted["chart"], wanted["values"]
    try:
        reports = {
            version: helm_python.lint(chart, values, strict=True, namespace=NAMESPACE, kube_version=version)
            for version in wanted["versions"]
        }
        with helm_python.Chart.load(chart) as loaded:
            files = loaded.render(values, name="openkcm", namespace=NAMESPACE)
        json.dump({"reports": reports, "rendered": "\n---\n".join(files[name] for name in sorted(files))}, sys.stdout)
    except helm_python.HelmError as failed:
        json.dump({"error": str(failed)}, sys.stdout)


if __name__ == "__main__":
    main()
