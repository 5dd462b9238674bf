from tenancy.boundaries import CheckResult, breaches


def result(name, outcome):
    return CheckResult(clause="M2", name=name, outcome=outcome, seconds=0.1, evidence="")


def test_only_attacks_that_succeeded_are_breaches():
    assert breaches((result("read", "held"), result("write", "breached"), result("swap", "held"))) == ("write",)
    assert breaches(()) == ()
