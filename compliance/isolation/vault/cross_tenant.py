"""Isolation checks of keys and certificates between two tenants (MTCI U2, C2, C3, A1, A3).

Each attack has a positive control: the same request on the attacker's own data must succeed. A check holds only for the
expected rejection (403 of a policy, an authentication failure, a broken chain). A server that is down, a disabled key
or an unknown answer raises. Both directions need ten calls for keys, four signatures, and a login for each new tenant.
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

_CONSTRAINED = "the name constraints of the chain reject it"
_NO_CHAIN = "no chain leads to the tenant's authority"
_ISSUER_DECIDES = "the issuer decides the tenant, and it is the attacker's own"


def _utc_now() -> datetime:
    return datetime.now(UTC)


class VaultTenantIsolationSuite:
    """Attacks on keys and certificates between two tenants (MTCI U2, C2, C3, A1, A3).

    `session` signs with both CAs with the rights of the controller; `tokens` authenticate as tenants.
    """

    def __init__(self, session: VaultClient, tokens: TenantTokens, now: Callable[[], datetime] = _utc_now) -> None:
        self._session = session
        self._tokens = tokens
        self._now = now

    def attack_each_other(
        self, one: str, other: str, one_ca: Authority, other_ca: Authority
    ) -> tuple[Sequence[CheckResult], Sequence[CheckResult]]:
        """Run all attacks in both directions; raise any error that is neither the expected rejection nor a breach."""
        by_one, by_other = _attack_keys(_Party.of(self._tokens, one), _Party.of(self._tokens, other))
        return (
            by_one + self._attack_certificates(one, other, one_ca, other_ca),
            by_other + self._attack_certificates(other, one, other_ca, one_ca),
        )

    def _attack_certificates(
        self, attacker: str, victim: str, attacker_ca: Authority, victim_ca: Authority
    ) -> tuple[CheckResult, ...]:
        forger = _Forger(
            load_issuer(self._session, attacker, attacker_ca.certificate_pem, attacker_ca.key_version),
            x509.load_pem_x509_certificates(attacker_ca.chain_pem.encode())[-1],
            self._now(),
        )
        target_ca = x509.load_pem_x509_certificate(victim_ca.certificate_pem.encode())
        return _attack_certificates(forger, attacker, victim, target_ca)


@dataclass(frozen=True, slots=True)
class _Party:
    """A tenant's token, and the encryption context of its ciphertexts in these checks."""

    calls: TokenSession
    context: EncryptionContext

    @classmethod
    def of(cls, tokens: TenantTokens, tenant_id: str) -> "_Party":
        context = EncryptionContext(tenant_id, ids.l2_key(tenant_id), _SERVICE, Purpose.BOUNDARY, "")
        return cls(tokens.session(tenant_id), context)


@dataclass(frozen=True, slots=True)
class _BatchResult:
    """Results of one batch decryption with one party's key and token: its own ciphertext and four attacks."""

    own: bytes | None
    stolen_in_victims_context: bytes | None
    stolen_in_own_context: bytes | None
    own_with_other_tenant: bytes | None
    own_with_other_key: bytes | None


@dataclass(frozen=True, slots=True)
class _Seconds:
    """Duration of each kind of attack in one direction."""

    encrypt: float
    make: float
    open: float
    decrypt: float


def _attack_keys(one: _Party, other: _Party) -> tuple[tuple[CheckResult, ...], tuple[CheckResult, ...]]:
    proof, clock = os.urandom(_PROOF_BYTES), Stopwatch()

    # Encrypt both ciphertexts first: this shows that both keys exist and work, so only isolation can reject the
    # attacks. One batch contains all contexts of one token and key, and serves that party as attacker and as victim.
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
    require_control(by_one.own == by_other.own == proof, "a tenant cannot decrypt its own ciphertext")
    open_seconds = clock.lap() / 2

    decrypts_refused = (
        is_refused(lambda: each_opened(one.calls, other.context.l2_key, ((other.context, ciphertexts[1]),))),
        is_refused(lambda: each_opened(other.calls, one.context.l2_key, ((one.context, ciphertexts[0]),))),
    )
    seconds = _Seconds(encrypt_seconds, make_seconds, open_seconds, clock.lap() / 2)
    refused = tuple(zip(encrypts_refused, makes_refused, decrypts_refused, strict=True))
    return _key_results(refused[0], by_one, by_other, seconds), _key_results(refused[1], by_other, by_one, seconds)


def _open(party: _Party, victim: _Party, own: str, foreign: str) -> _BatchResult:
    here, there = party.context, victim.context
    items = (
        (here, own),
        (there, _relabelled(foreign, own)),
        (here, _relabelled(foreign, own)),
        (here._replace(tenant_id=there.tenant_id), own),
        (here._replace(l2_key=there.l2_key), own),
    )
    return _BatchResult(*each_opened(party.calls, here.l2_key, items))


def _relabelled(foreign: str, own: str) -> str:
    """Return a foreign ciphertext with the version prefix of the attacker's own key.

    The prefix is not secret and not authenticated. With another prefix the key server would reject the ciphertext only
    because the attacker's key does not have that version, which proves nothing about the keys.
    """
    return f"{own[: own.rindex(':')]}{foreign[foreign.rindex(':') :]}"


def _key_results(
    refused: tuple[bool, bool, bool], by_attacker: _BatchResult, by_victim: _BatchResult, seconds: _Seconds
) -> tuple[CheckResult, ...]:
    encrypt_refused, make_refused, decrypt_refused = refused
    own_works = "the same on the attacker's own key works"
    # It needs no further call and proves the same: the token is valid and the victim's key works.
    login_works = "the attacker's token works on its own key"
    right_works = "the correct context decrypts in the same call"
    stolen_refused = by_attacker.stolen_in_victims_context is None and by_attacker.stolen_in_own_context is None
    tenant_bound, key_bound = by_victim.own_with_other_tenant is None, by_victim.own_with_other_key is None
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
    """A tenant CA in the hands of an attacker, who signs arbitrary names; the constraints of the root must hold."""

    issuer: Issuer
    root: x509.Certificate
    now: datetime

    def leaf(self, names: LeafNames) -> x509.Certificate:
        key = ec.generate_private_key(ec.SECP256R1()).public_key()
        return build_leaf(self.issuer, key, names, self.now, _LEAF_LIFETIME)

    def chain(self, leaf: x509.Certificate, trusted: x509.Certificate) -> list[x509.Certificate] | None:
        """Return the verified chain from the leaf to the trusted certificate, None if none exists."""
        verifier = PolicyBuilder().store(Store([trusted])).time(self.now).build_client_verifier()
        try:
            return verifier.verify(leaf, [self.issuer.certificate]).chain
        except VerificationError:
            return None


def _attack_certificates(
    forger: _Forger, attacker: str, victim: str, victim_ca: x509.Certificate
) -> tuple[CheckResult, ...]:
    target = LeafNames(_SERVICE, tenant_dns(victim), service_spiffe(victim, _SERVICE))
    clock = Stopwatch()

    # Own DNS name and the victim's URI: no constraint covers a URI, so this certificate verifies. It is the positive
    # control of all three checks, and shows that the URI does not determine the tenant.
    own_name = forger.leaf(replace(target, dns=tenant_dns(attacker)))
    chain = forger.chain(own_name, forger.root)
    if chain is None:
        raise PositiveControlFailed("a certificate with the attacker's own name does not verify")
    issuer_decides = tenant_of_authority(chain[1]) == attacker
    uri_seconds = clock.lap()

    foreign_name = forger.leaf(target)
    names_refused = forger.chain(foreign_name, forger.root) is None
    names_seconds = clock.lap()

    require_control(victim_ca.issuer == forger.root.subject, "the two tenant CAs have different roots")
    issuer_refused = all(forger.chain(leaf, victim_ca) is None for leaf in (own_name, foreign_name))
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
    """Create a wrapped data key in Vault, as for a service key."""
    with key_errors():
        calls.write(f"transit/datakey/wrapped/{context.l2_key}", {"context": encoded(context.encode())})
