from core.isolation import CheckResult, breaches, outcomes, unchecked


def result(name, outcome):
    return CheckResult(clause="M2", name=name, outcome=outcome, seconds=0.1, evidence="")


def test_breaches_returns_only_successful_attacks():
    assert breaches((result("read", "held"), result("write", "breached"), result("swap", "held"))) == ("write",)
    assert breaches((result("read", "not-checked"),)) == ()
    assert breaches(()) == ()


def test_unchecked_results_are_counted_separately():
    counted = outcomes((result("read", "held"), result("write", "not-checked"), result("swap", "not-checked")))
    assert (counted["held"], counted["breached"], counted["not-checked"]) == (1, 0, 2)


def test_unchecked_result_has_a_reason():
    (one,) = unchecked([("M2", "read")], "the key server is unreachable")
    assert (one.clause, one.name, one.outcome) == ("M2", "read", "not-checked")
    assert one.evidence == "the key server is unreachable"
