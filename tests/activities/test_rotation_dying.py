"""Every step of RotateKeys dies after each of its effects, or the rotation is abandoned between two steps.

After a death the next try completes the step. An abandoned rotation leaves keys that work; the next one completes it.
"""

from functools import partial

import pytest

from core.errors.keys import KeyUnavailable
from core.keys.rotation import KeyState, RotationScope
from core.messages.keys import PlanRotationStep
from tests.activities.dying import dies, full_but
from tests.activities.rotating import STEPS, Rotating

KINDS = {
    "everything": {},
    "the tenant key alone": {"services": RotationScope.NONE},
    "the services alone": {"tenant_key": False},
    "compromised": {"compromised": True},
}


@pytest.mark.parametrize(("kind", "dying"), full_but(("everything", "activate-service-keys"), KINDS, STEPS))
def test_step_that_dies_after_an_effect_completes_at_the_next_try(rotating, kind, dying) -> None:
    # All of them in the first kind, and every third in the others, which share its code.
    stride = 1 if kind == "everything" else 3
    effect, died = 1 - stride, True
    while died:
        effect += stride
        before, copies = rotating.opened(), rotating.copies()
        step = rotating.wants(**KINDS[kind])
        died = dying == "plan-rotation" and dies(rotating.tenant, effect, partial(rotating.step_of, dying, step))
        plan = rotating.step_of("plan-rotation", step)
        for name in rotating.path(step, plan):
            if name == dying:
                died = dies(rotating.tenant, effect, partial(rotating.step_of, name, step))
                rotating.assert_whole()
            rotating.step_of(name, step)
        rotating.assert_whole()
        assert_as_asked(rotating, step, before, copies)
        rotating.retire_all()  # or each round would have more effects than the one before
    rotating.tenant.assert_audited_once()


def assert_as_asked(rotating: Rotating, step: PlanRotationStep, before, copies) -> None:
    now, request = rotating.opened(), step.request
    if request.compromised:
        assert not set(before) & set(now), "a compromised version decrypts nothing for a caller"
        assert set(rotating.states().values()) == {KeyState.ACTIVE, KeyState.DESTROYED}
    else:
        assert {version: now[version] for version in before} == before
    rotated = request.services is RotationScope.ALL
    assert len(set(now.values())) == len(now), "two versions are never the same key"
    assert len(now) == (3 if request.compromised else len(before) + 3 * rotated)
    assert rotating.rotation(step.number).state == "done"
    if request.tenant_key:
        key = rotating.l2
        assert (key.version, key.oldest) == (step.number + 1, step.number + 1)
        for copy in copies:
            with pytest.raises(KeyUnavailable):
                rotating.open_copy(copy)


@pytest.mark.parametrize(("kind", "last"), full_but(("everything", "rewrap-keys"), KINDS, STEPS[:-1]))
def test_abandoned_rotation_leaves_keys_that_work_and_the_next_one_completes_it(rotating, kind, last) -> None:
    before, step = rotating.opened(), rotating.wants(**KINDS[kind])
    rotating.rotate(step, until=last)
    rotating.give_up(step, "root_key_unreachable", last)
    rotating.assert_whole()
    if not step.request.compromised:
        assert before.items() <= rotating.opened().items()
    assert KeyState.PREPARED not in rotating.states().values()
    ended = rotating.rotation(step.number)
    assert (ended.state, ended.problem) == ("failed", "root_key_unreachable")
    # Nothing is asked for but to finish what is left.
    rotating.rotate(rotating.wants(services=RotationScope.NONE, tenant_key=False))
    assert rotating.l2.oldest == rotating.l2.version
    assert rotating.tenant_keys.newest(rotating.tenant_id).oldest == rotating.l2.version
    assert KeyState.COMPROMISED not in rotating.states().values()
    rotating.assert_whole()
    rotating.tenant.assert_audited_once()
