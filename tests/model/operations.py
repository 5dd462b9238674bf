"""The worker's steps of ChangeRootKey and RotateKeys, one commit or call at a time.

While its operation runs, any step may occur at any time, be retried, or be interrupted by the death of its worker. It
may also complete after its operation was abandoned. Therefore each step must be safe because of what it checks before
it commits (docs/rotation.md, docs/root-keys.md).
"""

from collections.abc import Iterator

from core.tenants.lifecycle import DECRYPTS, State
from tests.model.people import ROOT_KEY, apply_move, with_life
from tests.model.state import (
    ACTIVE,
    COMPROMISED,
    DEACTIVATED,
    DESTROYED,
    DOWN,
    PLATFORM,
    PREPARED,
    UP,
    WRAP_ONLY,
    Rules,
    Scope,
    Tenant,
    Version,
    Work,
    World,
    Wrap,
)


def change_root_key(tenant: Tenant, world: World, rules: Rules, scope: Scope) -> Iterator[tuple[str, Tenant]]:
    if world.link == DOWN:
        return
    lock_state, to = tenant.life.lock_state, tenant.changing_to
    if to is None:
        if tenant.changes < scope.changes and rules.may_change_root_key(lock_state.state, lock_state.locks):
            for root in scope.roots:
                if root != tenant.root:
                    credentials = tenant.credentials | {root}
                    yield (
                        f"a change to the {root} is admitted",
                        tenant._replace(changes=tenant.changes + 1, changing_to=root, credentials=credentials),
                    )
    else:
        if tenant.changing is None:
            yield from _stage_wraps(tenant, to, rules)
        if lock_state.state in DECRYPTS | {State.LOCKED}:
            yield from _switch(tenant, to, rules)
        yield "the change is abandoned", _abandon(tenant, to, rules)
    if tenant.changing is not None:
        yield "stores the staged wrap", _store_staged(tenant, tenant.changing, rules)
        yield "the worker of the change dies", tenant._replace(changing=None)


def _stage_wraps(tenant: Tenant, to: str, rules: Rules) -> Iterator[tuple[str, Tenant]]:
    target = tenant.holder(to)
    for number, version in enumerate(tenant.versions, start=1):
        read = version.wrap
        if read is None or version.staged is not None or not read.valid:
            continue
        if tenant.holder(read.root) == UP and read.root in tenant.credentials and _can_wrap(target, rules):
            made = read._replace(root=to, valid=target == UP)
            work = Work(tenant.changes, number, read, made)
            yield f"stages a wrap by the {to}, version {number}", tenant._replace(changing=work)


def _can_wrap(holder: str, rules: Rules) -> bool:
    """Return whether a holder yields a valid wrap: a new wrap is unwrapped once before it is trusted."""
    return holder == UP or (holder == WRAP_ONLY and not rules.verifies_wraps)


def _store_staged(tenant: Tenant, work: Work, rules: Rules) -> Tenant:
    running = tenant.changing_to is not None and work.number == tenant.changes
    tenant = tenant._replace(changing=None)
    version = tenant.versions[work.version - 1]
    if (rules.refuses_ended and not running) or version.state == DESTROYED:
        return tenant
    if rules.replaces_only_what_it_read and version.wrap != work.read:
        return tenant
    if not rules.keeps_old_wraps:
        return _with(tenant, work.version, version._replace(wrap=work.made, staged=work.made))
    return _with(tenant, work.version, version._replace(staged=work.made))


def _switch(tenant: Tenant, to: str, rules: Rules) -> Iterator[tuple[str, Tenant]]:
    """Check a last time that the new key unwraps, then replace all wraps at once, under the tenant's row lock."""
    whole = all(one.staged is not None for one in tenant.versions if one.state != DESTROYED)
    if (not whole and rules.switches_whole) or (tenant.holder(to) != UP and rules.checks_before_switching):
        return
    versions = tuple(
        one if one.staged is None else one._replace(wrap=one.staged, staged=None) for one in tenant.versions
    )
    life = (
        apply_move(rules, tenant.life, "root key releases") if ROOT_KEY in tenant.life.lock_state.locks else tenant.life
    )
    if life is not None:
        switched = tenant._replace(
            root=to,
            versions=versions,
            credentials=tenant.credentials - {tenant.root} | {to, PLATFORM},
            health=(UP, 0),
            changing_to=None,
            disabled_for=0,
            unnotified=True,
        )
        yield f"switches to the {to}", with_life(switched, life)


def _abandon(tenant: Tenant, to: str, rules: Rules) -> Tenant:
    versions = tuple(one._replace(staged=None) if rules.clears_abandoned else one for one in tenant.versions)
    # The platform's key is not a recorded candidate: it does not change, and no notification is sent.
    unnotified, credentials = (tenant.unnotified or to != PLATFORM), tenant.credentials - {to} | {PLATFORM}
    return tenant._replace(changing_to=None, versions=versions, credentials=credentials, unnotified=unnotified)


def rotate(tenant: Tenant, world: World, rules: Rules, scope: Scope) -> Iterator[tuple[str, Tenant]]:
    l2 = tenant.l2
    if tenant.rotating_from and l2.newest == tenant.rotating_from:
        yield "the tenant key gets a new version at its server", tenant._replace(l2=l2._replace(newest=l2.newest + 1))
    empty = all(one.wrap is None or one.wrap.l2 == l2.recorded for one in tenant.versions)
    retires_to = l2.recorded_oldest if rules.records_retirement_first else l2.recorded if empty else 0
    if l2.oldest < retires_to:
        yield "the key server retires older versions", tenant._replace(l2=l2._replace(oldest=retires_to))
    if world.link == DOWN:
        return
    if not tenant.rotating_from and tenant.rotations < scope.rotations and tenant.life.lock_state.state in DECRYPTS:
        for compromised in (False, True) if scope.compromises else (False,):
            begun = tenant._replace(
                rotations=tenant.rotations + 1, rotating_from=l2.newest, for_compromised=compromised
            )
            yield "a rotation is planned" + ", for compromised keys" * compromised, begun
    if tenant.rotating_from:
        yield from _rotation_steps(tenant, rules, scope)
    for work in tenant.rotating:
        left = tuple(one for one in tenant.rotating if one is not work)
        yield (
            f"commits its wrap, version {work.version}",
            _commit(tenant._replace(rotating=left), work, rules),
        )
        yield f"a worker of the rotation dies, with version {work.version}", tenant._replace(rotating=left)


def _rotation_steps(tenant: Tenant, rules: Rules, scope: Scope) -> Iterator[tuple[str, Tenant]]:
    l2, holder = tenant.l2, tenant.holder(tenant.root)
    if l2.recorded < l2.newest:
        yield "the new version of the tenant key is recorded", tenant._replace(l2=l2._replace(recorded=l2.newest))
    prepared = any(one.state == PREPARED for one in tenant.versions)
    idle = len(tenant.rotating) < scope.workers
    able = idle and tenant.root in tenant.credentials
    if able and not prepared and len(tenant.versions) < scope.versions and _can_wrap(holder, rules):
        made = Wrap(tenant.name, tenant.root, l2.newest, valid=holder == UP)
        yield "prepares a version", _add_work(tenant, Work(tenant.rotations, len(tenant.versions) + 1, None, made))
    if prepared and tenant.life.lock_state.state in DECRYPTS | {State.LOCKED}:
        yield "the prepared version is activated", _activate(tenant)
    for number, version in enumerate(tenant.versions, start=1):
        read = version.wrap
        if idle and read is not None and read.l2 < l2.recorded and _can_unwrap(tenant, read):
            work = Work(tenant.rotations, number, read, read._replace(l2=l2.newest))
            yield f"rewraps version {number}", _add_work(tenant, work)
        if version.state == COMPROMISED and (tenant.sealed != number or not rules.destroys_only_unused):
            ended = _with(tenant, number, Version(DESTROYED, None))
            yield f"destroys version {number}", ended._replace(unnotified=True)
    empty = all(one.wrap is None or one.wrap.l2 == l2.recorded for one in tenant.versions)
    if l2.recorded_oldest < l2.recorded and (empty or not rules.retires_only_empty):
        retired = l2._replace(recorded_oldest=l2.recorded)
        yield "older versions of the tenant key are recorded as retired", tenant._replace(l2=retired)
    yield "the rotation ends", _end_rotation(tenant)


def _can_unwrap(tenant: Tenant, wrap: Wrap) -> bool:
    """Return whether a worker can unwrap it now: with its root key, and then with the tenant key."""
    usable = tenant.holder(wrap.root) == UP and wrap.root in tenant.credentials
    return usable and wrap.valid and tenant.l2.oldest <= wrap.l2


def _commit(tenant: Tenant, work: Work, rules: Rules) -> Tenant:  # noqa: PLR0911 - one line per rejection
    running = tenant.rotating_from and work.number == tenant.rotations
    if rules.refuses_ended and not running:
        return tenant
    if work.version > len(tenant.versions):  # prepared
        if rules.refuses_other_root and work.made.root != tenant.root:
            return tenant
        if rules.refuses_retired and work.made.l2 < tenant.l2.recorded_oldest:
            return tenant
        return tenant._replace(versions=(*tenant.versions, Version(PREPARED, work.made)))
    version = tenant.versions[work.version - 1]
    if work.read is None or version.state == DESTROYED:
        return tenant
    if rules.replaces_only_what_it_read and version.wrap != work.read:
        return tenant
    return _with(tenant, work.version, version._replace(wrap=work.made, staged=None))


def _add_work(tenant: Tenant, work: Work) -> Tenant:
    return tenant._replace(rotating=tuple(sorted((*tenant.rotating, work), key=repr)))


def _activate(tenant: Tenant) -> Tenant:
    ends = {ACTIVE: COMPROMISED if tenant.for_compromised else DEACTIVATED, PREPARED: ACTIVE}
    if tenant.for_compromised:
        ends[DEACTIVATED] = COMPROMISED
    versions = tuple(one._replace(state=ends.get(one.state, one.state)) for one in tenant.versions)
    return tenant._replace(versions=versions, unnotified=True)


def _end_rotation(tenant: Tenant) -> Tenant:
    """End a rotation: a version that was only prepared is destroyed, an activated one stays."""
    versions = tuple(Version(DESTROYED, None) if one.state == PREPARED else one for one in tenant.versions)
    announced = tenant.unnotified or versions != tenant.versions
    return tenant._replace(rotating_from=0, versions=versions, unnotified=announced)


def _with(tenant: Tenant, number: int, version: Version) -> Tenant:
    before, after = tenant.versions[: number - 1], tenant.versions[number:]
    return tenant._replace(versions=(*before, version, *after))
