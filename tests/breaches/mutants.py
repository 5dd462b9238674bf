"""The deliberate breaches, by the control that each removes.

Controls overlap: a mistake at one alone is often no breach. So some mutants remove two at once, and say so.
"""

from collections.abc import Sequence
from typing import Literal

from tests.breaches.breaking import Breach, Function, How, Policy, Rows, Source, Written

When = Literal["none", "before", "after"]


def _crypto(*edits: tuple[str, str, str]) -> Source:
    """Alter the crypto service; each edit is a module, a text of it and what stands there instead."""
    by_module: dict[str, list[tuple[str, str]]] = {}
    for module, old, new in edits:
        by_module.setdefault(module, []).append((old, new))
    return Source("crypto", by_module)


def _breach(name: str, opens: str, how: How | Sequence[How], *caught_by: str, service: When = "none") -> Breach:
    return Breach(name, opens, how if isinstance(how, Sequence) else (how,), frozenset(caught_by), service)


_PLACE = "return Context(caller.tenant_id, caller.l2_key, caller.service, purpose, resource)"
_OF_OBJECTS = f"if purpose is Purpose.MANAGED_OBJECT:\n        {_PLACE}\n    "
"""What is stored already goes on opening: the breach is of new texts, and the product runs on."""
_SEALS = "key = await self._key(caller, ENCRYPTS)\n        return form.to_text("
_OPENS = "key = await self._key_of_text(caller, DECRYPTS, form.header(sealed).key_version)\n        return form.unseal("
_REWRAPS = "active = await self._key(caller, ENCRYPTS)\n"


def _one_key_for(whom: str, place: str) -> Source:
    """Have texts of the same `whom` sealed with the same key, in the context that `place` returns."""
    key = f"key = ServiceKey(key.version, {whom})\n        return"
    return _crypto(
        ("crypto_service.keys.operations", _PLACE, _OF_OBJECTS + place),
        ("crypto_service.keys.operations", _SEALS, _SEALS.replace("return", key)),
        ("crypto_service.keys.operations", _OPENS, _OPENS.replace("return", key)),
        ("crypto_service.keys.operations", _REWRAPS, f"active = old = ServiceKey(old.version, {whom})\n"),
    )


CRYPTO = (
    _breach(
        "the context leaves out the object",
        "a ciphertext opens in any place of its service",
        _crypto(("crypto_service.keys.operations", _PLACE, _OF_OBJECTS + _PLACE.replace("resource)", '"anywhere")'))),
        "https-decrypt-other-resource",
    ),
    _breach(
        "the context leaves out the purpose",
        "a data key's text opens through decrypt, without the record of a released key",
        _crypto(("crypto_service.keys.operations", _PLACE, _OF_OBJECTS + _PLACE.replace("purpose,", "Purpose.DATA,"))),
        "https-decrypt-data-key-as-data",
    ),
    _breach(
        "the context leaves out the service, and all services of a tenant have one key",
        "one service opens what another encrypted",
        _one_key_for("(caller.tenant_id.encode() * 32)[:32]", _PLACE.replace("caller.service", '"any"')),
        "https-decrypt-other-service",
        "https-open-data-key-other-service",
    ),
    _breach(
        "the context leaves out who, and all tenants have one key",
        "one tenant opens what another encrypted",
        _one_key_for("bytes(32)", 'return Context("any", "any", "any", purpose, resource)'),
        "https-decrypt-other-tenant",
        "https-open-data-key-other-tenant",
    ),
    _breach(
        "objects are found without their service",
        "one service learns what another has, and changes it",
        _crypto(("database.services.managed_objects", 'where service = %s"', "where service || %s <> ''\"")),
        "kmip-locate-other-service",
    ),
    _breach(
        "the URI of a certificate is believed, and its issuer is not proven",
        "whoever has an authority of its own is anybody it likes",
        _crypto(
            (
                "crypto_service.authentication",
                "(dns,) = names.get_values_for_type(x509.DNSName)",
                'dns = names.get_values_for_type(x509.UniformResourceIdentifier)[0].split("/")[2]',
            ),
            ("crypto_service.authentication", "            _prove(leaf, row)\n", ""),
        ),
        "certificate-with-other-tenant-in-uri",
    ),
    _breach(
        "a revoked certificate is let in, and so is a service that was disconnected",
        "who was shut out goes on",
        _crypto(
            ("crypto_service.authentication", "if row.revoked_at is not None:", "if False:"),
            ("crypto_service.authentication", "if row.service_state is not ServiceState.CONNECTED:", "if False:"),
        ),
        "revoked-on-new-connection",
    ),
    _breach(
        "what is remembered of callers outlives their revocation",
        "who was shut out goes on for as long as the cache lasts",
        _crypto(("crypto_service.authentication", "elif tenant in self._tenants:", "elif False:")),
        "revoked-on-new-connection",
        "revoked-on-open-connection",
    ),
    _breach(
        "a use that succeeded is not written down over HTTPS",
        "keys are used and nobody can know",
        _crypto(
            (
                "crypto_service.keys.operations",
                "await self._journal.write((_entry(caller, operation, resource, self._timer() - began, size=size),))",
                "pass",
            )
        ),
        "operations-on-record",
    ),
    _breach(
        "a refusal is not written down over HTTPS",
        "attempts leave no trace",
        _crypto(
            (
                "crypto_service.keys.operations",
                "await self._journal.write((_entry(caller, operation, subject, took, refused=refused.code),))",
                "pass",
            )
        ),
        "refusals-on-record",
    ),
    _breach(
        "KMIP forgets to write down who fetches a key",
        "keys are fetched and nobody can know",
        _crypto(
            (
                "crypto_service.kmip.dispatch",
                "if outcome.entry is not None]",
                "if outcome.entry is not None and (outcome.entry.refused or outcome.entry.operation != 'get')]",
            )
        ),
        "operations-on-record",
    ),
    _breach(
        "delivery leaves refusals out",
        "what was tried and refused stands in no stream",
        _crypto(
            (
                "crypto_service.audit.shipper",
                "tx.audit.append_all(found.events[first : first + _AT_ONCE])",
                "tx.audit.append_all([one for one in found.events if one.outcome == 'success'])",
            ),
        ),
        "refusals-on-record",
    ),
    _breach(
        "an authentication tag is not looked at",
        "altered and stolen texts are answered as if they opened",
        _crypto(
            (
                "crypto_service.keys.primitives",
                (
                    "        return AESGCM(key).decrypt(nonce, ciphertext, associated_data)\n    except InvalidTag:"
                    "  # a text shorter than the tag also ends here\n        raise CiphertextRefused from None"
                ),
                (
                    "        return AESGCM(key).decrypt(nonce, ciphertext, associated_data)\n    except InvalidTag:\n"
                    '        return b""'
                ),
            )
        ),
        "kmip-decrypt-other-tenant",
        "kmip-decrypt-other-object",
    ),
    _breach(
        "a request may say whose it is",
        "the payload has a field for the tenant",
        _crypto(("crypto_service.https.schemas", 'extra="forbid", strict=True', 'extra="ignore", strict=True')),
        "https-claim-in-payload",
    ),
)


def _reference_to_key(table: str) -> tuple[str, str]:
    """Return the statements that drop and restore the reference of a table to a tenant's key."""
    alter, constraint = f"alter table okcm.{table}", f"constraint {table}_tenant_id_l2_key_fkey"
    columns = "foreign key (tenant_id, l2_key) references okcm.key (tenant_id, name)"
    return f"{alter} drop {constraint}", f"{alter} add {constraint} {columns}"


DATABASE = (
    _breach(
        "the signature of contexts is asked of nobody on one table",
        "whoever can run SQL names any tenant",
        Rows(
            "drop policy signed on okcm.key",
            "create policy signed on okcm.key as restrictive for all to public"
            " using ((select okcm.ctx_ok())) with check ((select okcm.ctx_ok()))",
        ),
        "row-security-swapped-context-read",
        "row-security-swapped-context-write",
    ),
    _breach(
        "a tenant policy lets every row through",
        "each tenant sees all",
        Rows(
            "alter policy own_rows on okcm.service_key using (true)",
            "alter policy own_rows on okcm.service_key"
            " using (tenant_id = (select current_setting('app.tenant_id', true)))",
        ),
        "row-security-plain-read",
    ),
    _breach(
        "row security is off on the objects",
        "each tenant sees the others' objects",
        Rows(
            "alter table okcm.managed_object no force row level security, disable row level security",
            "alter table okcm.managed_object enable row level security, force row level security",
        ),
        "row-security-plain-read",
    ),
    _breach(
        "any context is a good one",
        "whoever can run SQL is anybody",
        Function("okcm.ctx_ok", [("return parts[3] =", "return true or parts[3] =")]),
        "row-security-forged-context-read",
        "row-security-swapped-context-read",
    ),
    _breach(
        "contexts do not end",
        "an old context works for ever",
        Function("okcm.ctx_ok", [("<= extract(epoch from statement_timestamp())", "<= 0")]),
        "row-security-expired-context-read",
    ),
    _breach(
        "a route may lead to another tenant's key",
        "a tenant is sent to a key that is not its own",
        Rows(*_reference_to_key("route")),
        "row-security-refer-to-foreign-key",
    ),
)


def _any_tenant(path: str) -> Policy:
    """Let a tenant's token do at any tenant's key what it may do at its own."""
    own = f'path "{path}/L2-{{{{'
    return Policy("openkcm-tenant", [(own, f'path "{path}/L2-*" {{\n  capabilities = ["update"]\n}}\n{own}')])


def _may(who: str, path: str, capability: str) -> Policy:
    """Let somebody do one thing more; what the policy says first is left as it is."""
    more = f'path "{path}" {{\n  capabilities = ["{capability}"]\n}}\n'
    return Policy(f"openkcm-{who}", [], more)


_LAST = '"min_encryption_version" = []'
_ENCRYPTS = '-primary" {\n  capabilities = ["update"]\n}\n\npath "transit/decrypt/'

KEY_SERVER = (
    _breach(
        "a tenant's token decrypts with any tenant's key",
        "what one tenant encrypted opens for another that has its text",
        _any_tenant("transit/decrypt"),
        "decrypt-with-foreign-token",
    ),
    _breach(
        "a tenant's token encrypts with any tenant's key",
        "one tenant makes texts that another takes for its own",
        _any_tenant("transit/encrypt"),
        "encrypt-with-foreign-token",
    ),
    _breach(
        "a tenant's token makes keys under any tenant's key",
        "one tenant has keys made that belong to another's branch",
        _any_tenant("transit/datakey/wrapped"),
        "make-key-with-foreign-token",
    ),
    _breach(
        "the worker may export keys",
        "tenant keys can be carried away",
        _may("worker", "transit/export/*", "read"),
        "bring-in-or-take-out-as-worker",
    ),
    _breach(
        "a tenant's token may import versions of a key",
        "somebody brings in a key whose material is known elsewhere",
        _may("tenant", "transit/keys/+/import_version", "update"),
        "bring-in-or-take-out-as-tenant",
    ),
    _breach(
        "the worker may make keys exportable, or deletable",
        "one call more, and tenant keys can be carried away",
        Policy("openkcm-worker", [(_LAST, f'{_LAST}\n    "exportable" = []\n    "deletion_allowed" = []')]),
        "let-the-key-be-exported-or-deleted",
    ),
    _breach(
        "a key is made by being used",
        "a tenant that was shredded comes back with the first call",
        (
            Policy("openkcm-tenant", [(_ENCRYPTS, _ENCRYPTS.replace('["update"]', '["create", "update"]'))]),
            Written(
                "transit/config/keys",
                {"disable_upsert": False},
                {"disable_upsert": True},
                made="L2-openkcm-nobody-primary",
            ),
        ),
        "encrypt-under-a-name-without-a-key",
    ),
    _breach(
        "the worker may use tenant keys",
        "one process holds both layers of every service key",
        _may("worker", "transit/decrypt/L2-*", "update"),
        "open-without-tenant-key",
    ),
    _breach(
        "a key is rotated behind the platform's back",
        "there is a version that nobody has on record",
        Written("transit/keys/L2-{tenant}-primary/rotate", {}),
        "versions-on-record",
    ),
    _breach(
        "a key is made deletable behind the platform's back",
        "one call destroys what all of a tenant's data lies under",
        Written("transit/keys/L2-{tenant}-primary/config", {"deletion_allowed": True}, {"deletion_allowed": False}),
        "key-is-derived-and-stays-inside",
    ),
)

DESCENT = (
    _breach(
        "service keys are wrapped without the root key",
        "the customer's kill switch stops nothing",
        Source(
            "worker",
            {
                "kms.platform": [
                    ("return self._keys.wrap(self._name, context.encode(), inner)", "return inner"),
                    ("return self._keys.unwrap(self._name, context.encode(), wrapped)", "return wrapped"),
                    (
                        (
                            "return self._keys.wrap_all("
                            "self._name, [(context.encode(), inner) for context, inner in items])"
                        ),
                        "return [inner for _, inner in items]",
                    ),
                    (
                        (
                            "return self._keys.unwrap_all("
                            "self._name, [(context.encode(), wrapped) for context, wrapped in items])"
                        ),
                        "return [wrapped for _, wrapped in items]",
                    ),
                ]
            },
        ),
        "open-without-root-key",
        service="after",
    ),
    _breach(
        "a service key's row names another tenant's key",
        "two tenants lie under one key",
        Rows(
            f"alter table okcm.managed_object disable trigger all; {_reference_to_key('service_key')[0]};"
            " update okcm.service_key set l2_key = 'L2-openkcm-canary-primary' where tenant_id = {tenant}",
            "update okcm.service_key set l2_key = 'L2-' || tenant_id || '-primary' where tenant_id = {tenant}"
            f"; {_reference_to_key('service_key')[1]};"
            " alter table okcm.managed_object enable trigger all",
        ),
        "rows-descend-from-own-key",
        "wraps-name-own-key-and-version",
        service="before",
    ),
    _breach(
        "a service key may lie under another tenant's key",
        "a row that leads across the boundary is taken",
        Rows(*_reference_to_key("service_key")),
        "rows-under-another-key",
    ),
)

BREACHES = (*CRYPTO, *DATABASE, *KEY_SERVER, *DESCENT)
