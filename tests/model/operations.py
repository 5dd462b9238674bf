"""What the worker does for ChangeRootKey and RotateKeys, a commit or a call at a time.

Any step may come at any time while its operation runs, be retried, be left half done by a worker that dies, or be
finished after its operation was given up: each step must be safe by what it checks before it commits
(docs/rotation.md, docs/root-keys.md).
"""

from collections.abc import Iterator

from core.tenants.lifecycle import DECRYPTS, State
from tests.model.people import ROOT_KEY, living, moved
from tests.model.state import (
    ACTIVE,
    COMPROMISED,
    DEACTIVATED,
    DESTROYED,
    DOWN,
    HALF,
    PLATFORM,
    PREPARED,
    UP,
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
    standing, to = tenant.life.standing, tenant.changing_to
    if to is None:
        if tenant.changes < scope.changes and rules.may_change_root_key(standing.state, standing.locks):
            for root in scope.roots:
                if root != tenant.root:
                    credentials = tenant.credentials | {root}
                    yield (
                        f"a change to the {root} is admitted",
                        tenant._replace(changes=tenant.changes + 1, changing_to=root, credentials=credentials),
                    )
    else:
        if tenant.changing is None:
            yield from _wraps_beside(tenant, to, rules)
        if standing.state in DECRYPTS | {State.LOCKED}:
            yield from _switches(tenant, to, rules)
        yield "the change is given up", _abandoned(tenant, to, rules)
    if tenant.changing is not None:
        yield "keeps the wrap made beside", _staged(tenant, tenant.changing, rules)
        yield "the worker of the change dies", tenant._replace(changing=None)


def _wraps_beside(tenant: Tenant, to: str, rules: Rules) -> Iterator[tuple[str, Tenant]]:
    target = tenant.holder(to)
    for number, version in enumerate(tenant.versions, start=1):
        read = version.wrap
        if read is None or version.staged is not None or not read.good:
            continue
        if tenant.holder(read.root) == UP and read.root in tenant.credentials and _wraps(target, rules):
            made = read._replace(root=to, good=target == UP)
            work = Work(tenant.changes, number, read, made)
            yield f"wraps beside, under the {to}, version {number}", tenant._replace(changing=work)


def _wraps(holder: str, rules: Rules) -> bool:
    """Whether a wrap comes out of a holder: what was wrapped is opened once before it is believed."""
    return holder == UP or (holder == HALF and not rules.proves_wraps)


def _staged(tenant: Tenant, work: Work, rules: Rules) -> Tenant:
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


def _switches(tenant: Tenant, to: str, rules: Rules) -> Iterator[tuple[str, Tenant]]:
    """One last look that the new key opens, then all wraps at once, under the tenant's row lock."""
    whole = all(one.staged is not None for one in tenant.versions if one.state != DESTROYED)
    if (not whole and rules.switches_whole) or (tenant.holder(to) != UP and rules.looks_before_switching):
        return
    versions = tuple(
        one if one.staged is None else one._replace(wrap=one.staged, staged=None) for one in tenant.versions
    )
    life = moved(rules, tenant.life, "root key releases") if ROOT_KEY in tenant.life.standing.locks else tenant.life
    if life is not None:
        switched = tenant._replace(
            root=to,
            versions=versions,
            credentials=tenant.credentials - {tenant.root} | {to, PLATFORM},
            health=(UP, 0),
            changing_to=None,
            gone_for=0,
            unheard=True,
        )
        yield f"switches to the {to}", living(switched, life)


def _abandoned(tenant: Tenant, to: str, rules: Rules) -> Tenant:
    versions = tuple(one._replace(staged=None) if rules.clears_abandoned else one for one in tenant.versions)
    # The platform's key is no candidate on record: nothing changes of it, and nothing is announced.
    unheard, credentials = (tenant.unheard or to != PLATFORM), tenant.credentials - {to} | {PLATFORM}
    return tenant._replace(changing_to=None, versions=versions, credentials=credentials, unheard=unheard)


def rotate(tenant: Tenant, world: World, rules: Rules, scope: Scope) -> Iterator[tuple[str, Tenant]]:
    l2 = tenant.l2
    if tenant.rotating_from and l2.newest == tenant.rotating_from:
        yield "the tenant key gets a new version at its server", tenant._replace(l2=l2._replace(newest=l2.newest + 1))
    empty = all(one.wrap is None or one.wrap.l2 == l2.recorded for one in tenant.versions)
    retires_to = l2.recorded_oldest if rules.records_retirement_first else l2.recorded if empty else 0
    if l2.oldest < retires_to:
        yield "the tenant key's server retires what is older", tenant._replace(l2=l2._replace(oldest=retires_to))
    if world.link == DOWN:
        return
    if not tenant.rotating_from and tenant.rotations < scope.rotations and tenant.life.standing.state in DECRYPTS:
        for compromised in (False, True) if scope.compromises else (False,):
            begun = tenant._replace(
                rotations=tenant.rotations + 1, rotating_from=l2.newest, for_compromised=compromised
            )
            yield "a rotation is planned" + ", for compromised keys" * compromised, begun
    if tenant.rotating_from:
        yield from _rotating(tenant, rules, scope)
    for work in tenant.rotating:
        left = tuple(one for one in tenant.rotating if one is not work)
        yield (
            f"commits what it wrapped, version {work.version}",
            _committed(tenant._replace(rotating=left), work, rules),
        )
        yield f"a worker of the rotation dies, with version {work.version}", tenant._replace(rotating=left)


def _rotating(tenant: Tenant, rules: Rules, scope: Scope) -> Iterator[tuple[str, Tenant]]:
    l2, holder = tenant.l2, tenant.holder(tenant.root)
    if l2.recorded < l2.newest:
        yield "the new version of the tenant key is recorded", tenant._replace(l2=l2._replace(recorded=l2.newest))
    prepared = any(one.state == PREPARED for one in tenant.versions)
    idle = len(tenant.rotating) < scope.workers
    able = idle and tenant.root in tenant.credentials
    if able and not prepared and len(tenant.versions) < scope.versions and _wraps(holder, rules):
        made = Wrap(tenant.name, tenant.root, l2.newest, good=holder == UP)
        yield "prepares a version", _takes(tenant, Work(tenant.rotations, len(tenant.versions) + 1, None, made))
    if prepared and tenant.life.standing.state in DECRYPTS | {State.LOCKED}:
        yield "the prepared version takes over", _activated(tenant)
    for number, version in enumerate(tenant.versions, start=1):
        read = version.wrap
        if idle and read is not None and read.l2 < l2.recorded and _opens(tenant, read):
            work = Work(tenant.rotations, number, read, read._replace(l2=l2.newest))
            yield f"wraps anew version {number}", _takes(tenant, work)
        if version.state == COMPROMISED and (tenant.sealed != number or not rules.destroys_only_unused):
            ended = _with(tenant, number, Version(DESTROYED, None))
            yield f"destroys version {number}", ended._replace(unheard=True)
    empty = all(one.wrap is None or one.wrap.l2 == l2.recorded for one in tenant.versions)
    if l2.recorded_oldest < l2.recorded and (empty or not rules.retires_only_empty):
        retired = l2._replace(recorded_oldest=l2.recorded)
        yield "older versions of the tenant key are retired on record", tenant._replace(l2=retired)
    yield "the rotation ends", _ended(tenant)


def _opens(tenant: Tenant, wrap: Wrap) -> bool:
    """Whether a worker can open a wrap now: its root key does its part, and then the tenant key."""
    usable = tenant.holder(wrap.root) == UP and wrap.root in tenant.credentials
    return usable and wrap.good and tenant.l2.oldest <= wrap.l2


def _committed(tenant: Tenant, work: Work, rules: Rules) -> Tenant:  # noqa: PLR0911 - a line for each refusal
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


def _takes(tenant: Tenant, work: Work) -> Tenant:
    return tenant._replace(rotating=tuple(sorted((*tenant.rotating, work), key=repr)))


def _activated(tenant: Tenant) -> Tenant:
    ends = {ACTIVE: COMPROMISED if tenant.for_compromised else DEACTIVATED, PREPARED: ACTIVE}
    if tenant.for_compromised:
        ends[DEACTIVATED] = COMPROMISED
    versions = tuple(one._replace(state=ends.get(one.state, one.state)) for one in tenant.versions)
    return tenant._replace(versions=versions, unheard=True)


def _ended(tenant: Tenant) -> Tenant:
    """End a rotation: what was only prepared is destroyed, what took over stays."""
    versions = tuple(Version(DESTROYED, None) if one.state == PREPARED else one for one in tenant.versions)
    announced = tenant.unheard or versions != tenant.versions
    return tenant._replace(rotating_from=0, versions=versions, unheard=announced)


def _with(tenant: Tenant, number: int, version: Version) -> Tenant:
    before, after = tenant.versions[: number - 1], tenant.versions[number:]
    return tenant._replace(versions=(*before, version, *after))
