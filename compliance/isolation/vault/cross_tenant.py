"""Attacks on keys and certificates across two tenants, made for real (MTCI U2, C2, C3, A1, A3).

Each attack has a positive control: the same thing done to what is the attacker's own must work, or its refusal would
prove nothing. An attack counts as held only for the one refusal that the wall gives (a policy's 403, an
authentication failure, a broken chain); a server that is down, a disabled key or an unknown answer raises instead.
Both ways together make ten calls for keys and four signatures, plus a login for each tenant not yet seen.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from compliance.isolation.vault.common import (
    FORBIDDEN,
    UNAUTHENTIC,
    Stopwatch,
    each_opened,
    is_refused,
    require_control,
    result,
)
from core import names as ids
from core.errors.compliance import PositiveControlFailed
from core.isolation import CheckResult
from core.keys.encryption_context import EncryptionContext, Purpose
from openkcm.contract.names import service_spiffe, tenant_dns
from vault.auth.client import TokenSession, VaultClient
from vault.auth.tenant_tokens import TenantTokens
from vault.pki.certificates import Authority, Issuer, LeafNames, build_leaf, load_issuer, tenant_of_authority
from vault.transit.keys import encoded, key_errors

_LEAF_LIFETIME = timedelta(minutes=1)
_SERVICE = "boundary-probe"
_PROOF_BYTES = 16

_CONSTRAINED = "the name constraints of the chain refuse it"
_NO_CHAIN = "there is no chain to the tenant's authority"
_ISSUER_DECIDES = "the issuer decides the tenant, and it is the attacker's own"


def _utc_now() -> datetime:
    return datetime.now(UTC)


class VaultTenantIsolationSuite:
    """Attacks on keys and certificates across two tenants (MTCI U2, C2, C3, A1, A3).

    `session` signs with either CA as the controller may, `tokens` speak for tenants.
    """

    def __init__(self, session: VaultClient, tokens: TenantTokens, now: Callable[[], datetime] = _utc_now) -> None:
        self._session = session
        self._tokens = tokens
        self._now = now

    def attack_each_other(
        self, one: str, other: str, one_ca: Authority, other_ca: Authority
    ) -> tuple[Sequence[CheckResult], Sequence[CheckResult]]:
        """Let each attack the other with everything it has; raises what is neither a wall's refusal nor a breach."""
        by_one, by_other = _attack_keys(_Party.of(self._tokens, one), _Party.of(self._tokens, other))
        return (
            by_one + self._attack_certificates(one, other, one_ca, other_ca),
            by_other + self._attack_certificates(other, one, other_ca, one_ca),
        )

    def _attack_certificates(
        self, attacker: str, victim: str, attacker_ca: Authority, victim_ca: Authority
    ) -> tuple[CheckResult, ...]:
        thief = _Forger(
            load_issuer(self._session, attacker, attacker_ca.certificate_pem, attacker_ca.key_version),
            x509.load_pem_x509_certificates(attacker_ca.chain_pem.encode())[-1],
            self._now(),
        )
        target_ca = x509.load_pem_x509_certificate(victim_ca.certificate_pem.encode())
        return _attack_certificates(thief, attacker, victim, target_ca)


@dataclass(frozen=True, slots=True)
class _Party:
    """A tenant with its own token, and the place its boundary ciphertexts are bound to."""

    calls: TokenSession
    context: EncryptionContext

    @classmethod
    def of(cls, tokens: TenantTokens, tenant_id: str) -> "_Party":
        context = EncryptionContext(tenant_id, ids.l2_key(tenant_id), _SERVICE, Purpose.BOUNDARY, "")
        return cls(tokens.session(tenant_id), context)


@dataclass(frozen=True, slots=True)
class _Opened:
    """What one party's key opened in one call, under its own token: its own ciphertext and everything that is wrong."""

    own: bytes | None
    stolen_in_victims_context: bytes | None
    stolen_in_own_context: bytes | None
    own_with_other_tenant: bytes | None
    own_with_other_key: bytes | None


@dataclass(frozen=True, slots=True)
class _Seconds:
    """What each kind of attack took, one way."""

    encrypt: float
    make: float
    open: float
    decrypt: float


def _attack_keys(one: _Party, other: _Party) -> tuple[tuple[CheckResult, ...], tuple[CheckResult, ...]]:
    proof, clock = os.urandom(_PROOF_BYTES), Stopwatch()

    # Both ciphertexts are made first: they show that both keys exist and work, so what follows can only be refused
    # by a wall. Several contexts go into one call where one token and one key meet them all, and each party's call
    # serves it as the thief and as the victim.
    ciphertexts = _encrypt(one.calls, one.context, proof), _encrypt(other.calls, other.context, proof)
    encrypts_refused = (
        is_refused(lambda: _encrypt(one.calls, other.context, proof)),
        is_refused(lambda: _encrypt(other.calls, one.context, proof)),
    )
    encrypt_seconds = clock.lap() / 2

    makes_refused = (
        is_refused(lambda: _make(one.calls, other.context)),
        is_refused(lambda: _make(other.calls, one.context)),
    )
    make_seconds = clock.lap() / 2

    by_one = _open(one, other, *ciphertexts)
    by_other = _open(other, one, *reversed(ciphertexts))
    require_control(by_one.own == by_other.own == proof, "a tenant's own ciphertext does not open")
    open_seconds = clock.lap() / 2

    decrypts_refused = (
        is_refused(lambda: each_opened(one.calls, other.context.l2_key, ((other.context, ciphertexts[1]),))),
        is_refused(lambda: each_opened(other.calls, one.context.l2_key, ((one.context, ciphertexts[0]),))),
    )
    seconds = _Seconds(encrypt_seconds, make_seconds, open_seconds, clock.lap() / 2)
    refused = tuple(zip(encrypts_refused, makes_refused, decrypts_refused, strict=True))
    return _key_results(refused[0], by_one, by_other, seconds), _key_results(refused[1], by_other, by_one, seconds)


def _open(party: _Party, victim: _Party, own: str, stolen: str) -> _Opened:
    here, there = party.context, victim.context
    items = (
        (here, own),
        (there, _relabelled(stolen, own)),
        (here, _relabelled(stolen, own)),
        (replace(here, tenant_id=there.tenant_id), own),
        (replace(here, l2_key=there.l2_key), own),
    )
    return _Opened(*each_opened(party.calls, here.l2_key, items))


def _relabelled(stolen: str, own: str) -> str:
    """Return a stolen ciphertext as one of the thief's own key's version, as a thief would.

    The version before it is no secret and nothing authenticates it. Left as it is, the key server would refuse one that
    the thief's key does not have for that alone, which says nothing of the keys.
    """
    return f"{own[: own.rindex(':')]}{stolen[stolen.rindex(':') :]}"


def _key_results(
    refused: tuple[bool, bool, bool], thiefs: _Opened, victims: _Opened, seconds: _Seconds
) -> tuple[CheckResult, ...]:
    encrypt_refused, make_refused, decrypt_refused = refused
    own_works = "the same on the attacker's own key works"
    # A call less than the same on its own key, and it shows as much: the token lives and the victim's key works.
    login_works = "the attacker's token works on its own key"
    right_works = "the right context opens in the same call"
    stolen_refused = thiefs.stolen_in_victims_context is None and thiefs.stolen_in_own_context is None
    tenant_bound, key_bound = victims.own_with_other_tenant is None, victims.own_with_other_key is None
    return (
        result("U2", "encrypt-with-foreign-token", encrypt_refused, seconds.encrypt, FORBIDDEN, own_works),
        result("U2", "make-key-with-foreign-token", make_refused, seconds.make, FORBIDDEN, login_works),
        result("U2", "decrypt-with-foreign-token", decrypt_refused, seconds.decrypt, FORBIDDEN, own_works),
        result("U2", "decrypt-stolen-ciphertext-with-own-key", stolen_refused, seconds.open, UNAUTHENTIC, own_works),
        result("C2", "decrypt-with-other-tenant-in-context", tenant_bound, seconds.open, UNAUTHENTIC, right_works),
        result("C3", "decrypt-with-other-key-in-context", key_bound, seconds.open, UNAUTHENTIC, right_works),
    )


@dataclass(frozen=True, slots=True)
class _Forger:
    """A tenant's CA in the wrong hands: whoever has it may sign any name, and the root's constraints must hold."""

    issuer: Issuer
    root: x509.Certificate
    now: datetime

    def leaf(self, names: LeafNames) -> x509.Certificate:
        key = ec.generate_private_key(ec.SECP256R1()).public_key()
        return build_leaf(self.issuer, key, names, self.now, _LEAF_LIFETIME)

    def chain(self, leaf: x509.Certificate, trusted: x509.Certificate) -> list[x509.Certificate] | None:
        """Return the verified chain from the leaf to the trusted certificate, None when there is none."""
        verifier = PolicyBuilder().store(Store([trusted])).time(self.now).build_client_verifier()
        try:
            return verifier.verify(leaf, [self.issuer.certificate]).chain
        except VerificationError:
            return None


def _attack_certificates(
    thief: _Forger, attacker: str, victim: str, victim_ca: x509.Certificate
) -> tuple[CheckResult, ...]:
    target = LeafNames(_SERVICE, tenant_dns(victim), service_spiffe(victim, _SERVICE))
    clock = Stopwatch()

    # With its own DNS name and the victim's URI: no constraint covers a URI, so this one verifies, which is the
    # control of all three, and what must hold is that the URI does not decide.
    own_name = thief.leaf(replace(target, dns=tenant_dns(attacker)))
    chain = thief.chain(own_name, thief.root)
    if chain is None:
        raise PositiveControlFailed("a certificate with the attacker's own name does not verify")
    issuer_decides = tenant_of_authority(chain[1]) == attacker
    uri_seconds = clock.lap()

    foreign_name = thief.leaf(target)
    names_refused = thief.chain(foreign_name, thief.root) is None
    names_seconds = clock.lap()

    require_control(victim_ca.issuer == thief.root.subject, "the two authorities are not of one root")
    issuer_refused = all(thief.chain(leaf, victim_ca) is None for leaf in (own_name, foreign_name))
    issuer_seconds = clock.lap()

    works = "a certificate with the attacker's own DNS name verifies"
    return (
        result("A1", "certificate-with-foreign-names", names_refused, names_seconds, _CONSTRAINED, works),
        result("A1", "certificate-of-foreign-issuer", issuer_refused, issuer_seconds, _NO_CHAIN, works),
        result("A3", "certificate-with-foreign-uri", issuer_decides, uri_seconds, _ISSUER_DECIDES, works),
    )


def _encrypt(calls: TokenSession, context: EncryptionContext, plaintext: bytes) -> str:
    with key_errors():
        answer = calls.write(
            f"transit/encrypt/{context.l2_key}",
            {"plaintext": encoded(plaintext), "context": encoded(context.encode())},
        )
    return str(answer["ciphertext"])


def _make(calls: TokenSession, context: EncryptionContext) -> None:
    """Have a key made in Vault and wrapped, as a service key is."""
    with key_errors():
        calls.write(f"transit/datakey/wrapped/{context.l2_key}", {"context": encoded(context.encode())})
