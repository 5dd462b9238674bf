"""Line and branch coverage of the product by package, and what an earlier measurement covered but this one does not.

    coverage json -q -o now.json; python -m scripts.coverage_table now.json [before.json]

Both files must be of the same product code, since lines are compared by number.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

Files = dict[str, dict[str, Any]]


def load(path: Path) -> Files:
    """Return the files of a `coverage json` report."""
    files: Files = json.loads(path.read_text(encoding="utf-8"))["files"]
    return files


def by_package(files: Files) -> dict[str, tuple[float, float]]:
    """Return the percentages of covered lines and branches by top-level package."""
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for name, file in files.items():
        summary = file["summary"]
        for at, key in enumerate(("covered_lines", "num_statements", "covered_branches", "num_branches")):
            sums[name.split("/")[0]][at] += summary[key]
    return {
        package: (100 * lines / max(all_lines, 1), 100 * branches / all_branches if all_branches else 100.0)
        for package, (lines, all_lines, branches, all_branches) in sorted(sums.items())
    }


def lost(before: Files, after: Files) -> dict[str, tuple[list[int], list[list[int]]]]:
    """Return the lines and branches of each file that are covered in `before` but not in `after`."""
    found = {}
    for name, file in before.items():
        now = after.get(name, {"executed_lines": [], "executed_branches": []})
        lines = sorted(set(file["executed_lines"]) - set(now["executed_lines"]))
        executed = {tuple(branch) for branch in now["executed_branches"]}
        branches = [branch for branch in file["executed_branches"] if tuple(branch) not in executed]
        if lines or branches:
            found[name] = (lines, branches)
    return found


def main(after: Path, before: Path | None = None) -> None:
    now = by_package(load(after))
    then = by_package(load(before)) if before else {}
    write = sys.stdout.write
    write("| package | lines % | branches % | lines before | branches before |\n|---|---|---|---|---|\n")
    for package, (lines, branches) in now.items():
        former = "{:.2f} | {:.2f}".format(*then[package]) if package in then else " | "
        write(f"| {package} | {lines:.2f} | {branches:.2f} | {former} |\n")
    for name, (missing, arcs) in (lost(load(before), load(after)) if before else {}).items():
        write(f"no longer covered: {name} lines {missing} branches {arcs}\n")


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:]))
