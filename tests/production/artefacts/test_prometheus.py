"""Alerting rules and board of deploy/: their queries are valid, name existing series, and every alert is documented."""

import json
import re
import shutil
import subprocess
from itertools import combinations
from pathlib import Path

import pytest
import yaml

from activities.runtime.metrics import COUNTERS
from scripts.generate_docs import exported_metrics
from tests.production.artefacts.processes import ROOT

PROMETHEUS = ROOT / "deploy" / "prometheus"
RULES = yaml.safe_load((PROMETHEUS / "openkcm.rules.yml").read_text(encoding="utf-8"))
ALERTS = {rule["alert"]: rule for group in RULES["groups"] for rule in group["rules"]}
CASES = yaml.safe_load((PROMETHEUS / "openkcm.test.yml").read_text(encoding="utf-8"))["tests"]
BOARD = json.loads((ROOT / "deploy" / "grafana" / "openkcm.json").read_text(encoding="utf-8"))
QUERIES = [target["expr"] for panel in BOARD["panels"] for target in panel["targets"]]
EXPRESSIONS = [rule["expr"] for rule in ALERTS.values()] + QUERIES
PAGE = (ROOT / "docs" / "alerts.md").read_text(encoding="utf-8")

_UNPACKED = ROOT / ".venv" / "promtool" / "usr" / "bin" / "promtool"
_METRIC = re.compile(r"\bopenkcm_\w+")
_HISTOGRAM = re.compile(r"_(bucket|count|sum)$")
_SELECTOR = re.compile(r"\b(openkcm_\w+)_total\{([^}]*)\}")


def promtool(*arguments: str | Path) -> tuple[int, str]:
    program = _UNPACKED if _UNPACKED.exists() else shutil.which("promtool") or "promtool"
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.integration  # starts a process
def test_rules_are_valid_and_alert_as_their_cases_describe():
    status, report = promtool("check", "rules", "--lint-fatal", PROMETHEUS / "openkcm.rules.yml")
    assert status == 0, report
    assert f"{len(ALERTS)} rules found" in report
    status, report = promtool("test", "rules", PROMETHEUS / "openkcm.test.yml")
    assert status == 0, report


@pytest.mark.integration  # starts a process
@pytest.mark.parametrize(("former", "wrong"), [("> 60", "> 6000"), ('why="breached"', 'why="late"'), ("< 1", "< 0")])
def test_a_changed_rule_fails_its_case(tmp_path, former, wrong):
    shutil.copytree(PROMETHEUS, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "openkcm.rules.yml"
    assert former in file.read_text()
    file.write_text(file.read_text().replace(former, wrong))
    assert promtool("test", "rules", tmp_path / "openkcm.test.yml")[0] != 0


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not():
    tested = {(one["alertname"], bool(one["exp_alerts"])) for case in CASES for one in case["alert_rule_test"]}
    assert tested == {(name, fires) for name in ALERTS for fires in (True, False)}


def test_every_alert_names_its_section_and_every_section_is_an_alert():
    assert re.findall(r"^## (.*)$", PAGE, re.MULTILINE) == list(ALERTS)
    for name, rule in ALERTS.items():
        assert rule["annotations"]["runbook_url"] == f"docs/alerts.md#{name.lower()}"
        assert rule["labels"]["severity"] in re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_expression_uses_exported_series(expression):
    exported = {name for name, *_ in exported_metrics()}
    for name in _METRIC.findall(expression):
        assert name in exported or _HISTOGRAM.sub("", name) in exported
    for name, labels in _SELECTOR.findall(expression):
        wanted = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        if name in COUNTERS:
            assert any(wanted.items() <= series.items() for series in COUNTERS[name].series), labels


def test_cases_use_series_of_the_worker_as_it_exports_them():
    for case in CASES:
        for name, labels in _SELECTOR.findall("\n".join(series["series"] for series in case["input_series"])):
            given = dict(re.findall(r'(\w+)="([^"]*)"', labels))
            assert given.pop("instance") == "a"
            assert name not in COUNTERS or given in COUNTERS[name].series


def test_every_metric_about_a_problem_has_an_alert():
    used = set(_METRIC.findall("\n".join(rule["expr"] for rule in ALERTS.values())))
    quiet = {"records_archived", "rows_deleted", "isolation_checks", "operations_total", "connections", "rate_limited"}
    quiet |= {"handshakes", "shipped", "reencrypted", "superseded", "heartbeats_total", "provisioning_seconds"}
    unused = {name for name, *_ in exported_metrics()} - used
    assert [name for name in sorted(unused) if not any(part in name for part in quiet)] == []


@pytest.mark.integration  # starts a process
def test_queries_of_the_board_are_valid(tmp_path):
    rules = [
        {"record": f"board:query:{number}", "expr": query.replace("$__rate_interval", "5m")}
        for number, query in enumerate(QUERIES)
    ]
    file = tmp_path / "board.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "board", "rules": rules}]}))
    status, report = promtool("check", "rules", file)
    assert status == 0, report
    rules[0]["expr"] += ")"
    file.write_text(yaml.safe_dump({"groups": [{"name": "board", "rules": rules}]}))
    assert promtool("check", "rules", file)[0] != 0


def test_panels_of_the_board_have_a_place_a_unit_and_the_selected_source():
    panels = BOARD["panels"]
    assert [panel["id"] for panel in panels] == list(range(1, len(panels) + 1))
    source = {"type": "prometheus", "uid": "${datasource}"}
    assert [variable["name"] for variable in BOARD["templating"]["list"]] == ["datasource"]
    for panel in panels:
        assert panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert [one["datasource"] for one in [panel, *panel["targets"]]] == [source] * (1 + len(panel["targets"]))
    places = [panel["gridPos"] for panel in panels]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    assert not any(overlap(*pair) for pair in combinations(places, 2))


def overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    return all(
        one[start] < other[start] + other[size] and other[start] < one[start] + one[size]
        for start, size in (("x", "w"), ("y", "h"))
    )
