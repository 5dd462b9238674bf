"""One page for several processes, with counters that never decrease."""

from crypto_service.server.metrics import Report, Totals
from scripts.generate_docs import exported_metrics

ENCRYPT = ("openkcm_crypto_operations", (("operation", "encrypt"), ("refused", "")))
OPEN = ("openkcm_crypto_connections", ())
ENDS = ("openkcm_crypto_certificate_not_after_seconds", ())


def page(totals: Totals) -> dict[str, float]:
    lines = [line for line in totals.text().decode().splitlines() if not line.startswith("#")]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def test_counters_are_exported_with_zero_before_anything_is_counted():
    found = page(Totals())
    counters = {
        name for name, process, kind, _ in exported_metrics() if (process, kind) == ("crypto service", "counter")
    }
    assert counters <= {name.partition("{")[0] for name in found}
    assert set(found.values()) == {0}


def test_counters_and_connections_are_summed_and_the_earliest_expiry_exported():
    totals = Totals()
    report = Report(ready=True, faults=["slow"], counters={ENCRYPT: 7}, gauges={OPEN: 3, ENDS: 2000})
    totals.take("serve-1", Report.decode(report.encode()))
    totals.take("serve-2", Report(ready=True, counters={ENCRYPT: 5}, gauges={OPEN: 1, ENDS: 1000}))
    found = page(totals)
    assert found['openkcm_crypto_operations_total{operation="encrypt",refused=""}'] == 12
    assert found["openkcm_crypto_connections"] == 4
    assert found["openkcm_crypto_certificate_not_after_seconds"] == 1000
    assert found["openkcm_crypto_ready"] == totals.ready == 2
    assert totals.faults == ["slow"]


def test_counters_of_an_ended_process_remain_but_not_its_gauges():
    totals = Totals()
    totals.take("serve-1", Report(ready=True, counters={ENCRYPT: 7}, gauges={OPEN: 3}))
    totals.ended("serve-1", expected=True)
    assert page(totals)["openkcm_crypto_restarts_total"] == 0
    totals.ended("serve-1", expected=False)
    totals.take("serve-1", Report(ready=False, counters={ENCRYPT: 1}))
    found = page(totals)
    assert found['openkcm_crypto_operations_total{operation="encrypt",refused=""}'] == 8
    assert found["openkcm_crypto_restarts_total"] == 1
    assert found["openkcm_crypto_ready"] == totals.ready == 0
    assert "openkcm_crypto_connections" not in found
