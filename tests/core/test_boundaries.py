from core.isolation import CheckResult, breaches, outcomes, unchecked


def result(name, outcome):
    return CheckResult(clause="M2", name=name, outcome=outcome, seconds=0.1, evidence="")


def test_only_attacks_that_succeeded_are_breaches():
    assert breaches((result("read", "held"), result("write", "breached"), result("swap", "held"))) == ("write",)
    assert breaches((result("read", "not-checked"),)) == ()
    assert breaches(()) == ()


def test_what_could_not_be_checked_is_counted_apart():
    counted = outcomes((result("read", "held"), result("write", "not-checked"), result("swap", "not-checked")))
    assert (counted["held"], counted["breached"], counted["not-checked"]) == (1, 0, 2)


def test_an_attack_that_was_not_made_has_its_reason():
    (one,) = unchecked([("M2", "read")], "the key server is unreachable")
    assert (one.clause, one.name, one.outcome) == ("M2", "read", "not-checked")
    assert one.evidence == "the key server is unreachable"
