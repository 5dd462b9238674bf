"""The deliberate breaches, grouped by the control that they remove.

Controls overlap: a mistake in one of them is often no breach. Therefore some breaches remove two, as their names state.
"""

from collections.abc import Sequence
from typing import Literal

from tests.mutation.breaking import Breach, Change, Function, KeyServerWrite, Policy, Rows, Source

When = Literal["none", "before", "after"]


def _crypto(*edits: tuple[str, str, str]) -> Source:
    """Edit the crypto service; each edit is a module, the old and the new text."""
    by_module: dict[str, list[tuple[str, str]]] = {}
    for module, old, new in edits:
        by_module.setdefault(module, []).append((old, new))
    return Source("crypto", by_module)


def _breach(
    name: str, effect: str, changes: Change | Sequence[Change], *detected_by: str, service: When = "none"
) -> Breach:
    return Breach(
        name, effect, changes if isinstance(changes, Sequence) else (changes,), frozenset(detected_by), service
    )


_CONTEXT = "return EncryptionContext(caller.tenant_id, caller.l2_key, caller.service, purpose, resource)"
_OF_OBJECTS = f"if purpose is Purpose.MANAGED_OBJECT:\n        {_CONTEXT}\n    "
"""Stored objects still decrypt, so that the product keeps running: the breach affects new ciphertexts only."""
_ENCRYPT = "key = self._cached_key(caller, ENCRYPTS) or await self._key(caller, ENCRYPTS)\n        return form.to_text("
_DECRYPT = (
    "key = await self._key_of_text(caller, DECRYPTS, form.header(sealed).key_version)\n        return form.unseal("
)
_REENCRYPT = "active = await self._key(caller, ENCRYPTS)\n"


def _one_key_for(key_bytes: str, context: str) -> Source:
    """Encrypt with the key that the expression `key_bytes` returns, in the context that `context` returns."""
    key = f"key = ServiceKey(key.version, {key_bytes})\n        return"
    return _crypto(
        ("crypto_service.keys.operations", _CONTEXT, _OF_OBJECTS + context),
        ("crypto_service.keys.operations", _ENCRYPT, _ENCRYPT.replace("return", key)),
        ("crypto_service.keys.operations", _DECRYPT, _DECRYPT.replace("return", key)),
        ("crypto_service.keys.operations", _REENCRYPT, f"active = old = ServiceKey(old.version, {key_bytes})\n"),
    )


CRYPTO = (
    _breach(
        "the encryption context omits the resource",
        "a ciphertext decrypts for every resource of its service",
        _crypto(
            ("crypto_service.keys.operations", _CONTEXT, _OF_OBJECTS + _CONTEXT.replace("resource)", '"anywhere")'))
        ),
        "https-decrypt-other-resource",
    ),
    _breach(
        "the encryption context omits the purpose",
        "decrypt returns a wrapped data key without the record of a released key",
        _crypto(
            ("crypto_service.keys.operations", _CONTEXT, _OF_OBJECTS + _CONTEXT.replace("purpose,", "Purpose.DATA,"))
        ),
        "https-decrypt-data-key-as-data",
    ),
    _breach(
        "the encryption context omits the service, and all services of a tenant have one key",
        "a service decrypts the data of another service",
        _one_key_for("(caller.tenant_id.encode() * 32)[:32]", _CONTEXT.replace("caller.service", '"any"')),
        "https-decrypt-other-service",
        "https-open-data-key-other-service",
    ),
    _breach(
        "the encryption context omits the caller, and all tenants have one key",
        "a tenant decrypts the data of another tenant",
        _one_key_for("bytes(32)", 'return EncryptionContext("any", "any", "any", purpose, resource)'),
        "https-decrypt-other-tenant",
        "https-open-data-key-other-tenant",
    ),
    _breach(
        "managed objects are found without their service",
        "a service reads and changes the objects of another service",
        _crypto(
            (
                "database.services.managed_objects",
                "where service = %(service)s and l2_key",
                "where service || %(service)s <> '' and l2_key",
            ),
            (
                "database.services.managed_objects",
                'where service = %s"  # noqa: S608 - a constant',
                "where service || %s <> ''\"  # noqa: S608 - a constant",
            ),
        ),
        "kmip-locate-other-service",
    ),
    _breach(
        "the URI of a certificate is trusted, and its issuer is not verified",
        "a caller with its own CA impersonates any service",
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
        "a revoked certificate is accepted, and so is a disconnected service",
        "a revoked service keeps its access",
        _crypto(
            ("crypto_service.authentication", "if row.revoked_at is not None:", "if False:"),
            ("crypto_service.authentication", "if row.service_state is not ServiceState.CONNECTED:", "if False:"),
        ),
        "revoked-on-new-connection",
    ),
    _breach(
        "cached callers outlive their revocation",
        "a revoked service keeps its access until its cache entry expires",
        _crypto(("crypto_service.authentication", "elif tenant in self._tenants:", "elif False:")),
        "revoked-on-new-connection",
        "revoked-on-open-connection",
    ),
    _breach(
        "a successful operation over HTTPS is not recorded",
        "the use of keys is not audited",
        _crypto(
            (
                "crypto_service.keys.operations",
                "await self._journal.write((_entry(caller, operation, resource, self._timer() - began, size),))",
                "pass",
            )
        ),
        "operations-recorded",
    ),
    _breach(
        "a rejected request over HTTPS is not recorded",
        "attacks are not audited",
        _crypto(
            (
                "crypto_service.keys.operations",
                "await self._journal.write((_entry(caller, operation, subject, took, 0, refused.code),))",
                "pass",
            )
        ),
        "refusals-recorded",
    ),
    _breach(
        "KMIP does not record the export of a key",
        "the export of keys is not audited",
        _crypto(
            (
                "crypto_service.kmip.dispatch",
                "if entry is not None:",
                "if entry is not None and (entry.refused or entry.operation != 'get'):",
            )
        ),
        "operations-recorded",
    ),
    _breach(
        "the shipper omits rejected requests",
        "rejected requests are in no audit stream",
        _crypto(
            (
                "crypto_service.audit.shipper",
                "tx.audit.append_all(found.events[first : first + _AT_ONCE])",
                "tx.audit.append_all([one for one in found.events if one.outcome == 'success'])",
            ),
        ),
        "refusals-recorded",
    ),
    _breach(
        "an authentication tag is not verified",
        "altered and foreign ciphertexts are accepted",
        _crypto(
            (
                "crypto_service.keys.primitives",
                (
                    "    except InvalidTag:  # a text shorter than the tag also ends here\n"
                    "        raise CiphertextRefused from None"
                ),
                '    except InvalidTag:\n        return b""',
            )
        ),
        "kmip-decrypt-other-tenant",
        "kmip-decrypt-other-object",
    ),
    _breach(
        "a request may name its tenant",
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


_CONTEXT_BEFORE = (
    "exists (select from okcm.context_key where role = session_user::text and current_setting('app.ctx', true)"
    " = encode(sha256(outer_pad || sha256(inner_pad || convert_to(tenant || '|' || pg_backend_pid() || '|'"
    " || extract(epoch from transaction_timestamp()) - 0.000001, 'UTF8'))), 'hex'))"
)
"""The context of a transaction that began a microsecond earlier in the same session."""

DATABASE = (
    _breach(
        "one table does not require a signed context",
        "a client with SQL access selects any tenant",
        Rows(
            "drop policy signed on okcm.key",
            "create policy signed on okcm.key as restrictive for all to public"
            " using ((select okcm.ctx_ok())) with check ((select okcm.ctx_ok()))",
        ),
        "row-security-switched-setting-read",
        "row-security-switched-setting-write",
    ),
    _breach(
        "a policy of row-level security allows every row",
        "a tenant reads the rows of all tenants",
        Rows(
            "alter policy own_rows on okcm.service_key using (true)",
            "alter policy own_rows on okcm.service_key"
            " using (tenant_id = (select current_setting('app.tenant_id', true)))",
        ),
        "row-security-plain-read",
    ),
    _breach(
        "row-level security is disabled on managed objects",
        "a tenant reads the managed objects of all tenants",
        Rows(
            "alter table okcm.managed_object no force row level security, disable row level security",
            "alter table okcm.managed_object enable row level security, force row level security",
        ),
        "row-security-plain-read",
    ),
    _breach(
        "the signature of a context is not verified",
        "a client with SQL access impersonates any tenant",
        Function("okcm.ctx_ok", [("return exists", "return true or exists")]),
        "row-security-forged-context-read",
        "row-security-switched-setting-read",
    ),
    _breach(
        "a context is valid in other transactions of its session",
        "a stolen context gives access to its tenant",
        Function("okcm.ctx_ok", [("return exists", f"return {_CONTEXT_BEFORE} or exists")]),
        "row-security-other-transaction-context-read",
    ),
    _breach(
        "a route may name another tenant's key",
        "a tenant uses the key of another tenant",
        Rows(*_reference_to_key("route")),
        "row-security-refer-to-foreign-key",
    ),
)


def _any_tenant(path: str) -> Policy:
    """Give a tenant's token the same rights on every tenant's key as on its own."""
    own = f'path "{path}/L2-{{{{'
    return Policy("openkcm-tenant", [(own, f'path "{path}/L2-*" {{\n  capabilities = ["update"]\n}}\n{own}')])


def _may(who: str, path: str, capability: str) -> Policy:
    """Give a role one more capability; the rest of its policy is unchanged."""
    more = f'path "{path}" {{\n  capabilities = ["{capability}"]\n}}\n'
    return Policy(f"openkcm-{who}", [], more)


_LAST = '"min_encryption_version" = []'
_ENCRYPTS = '-primary" {\n  capabilities = ["update"]\n}\n\npath "transit/decrypt/'

KEY_SERVER = (
    _breach(
        "a tenant's token decrypts with any tenant's key",
        "a tenant decrypts the ciphertexts of another tenant",
        _any_tenant("transit/decrypt"),
        "decrypt-with-foreign-token",
    ),
    _breach(
        "a tenant's token encrypts with any tenant's key",
        "a tenant forges ciphertexts of another tenant",
        _any_tenant("transit/encrypt"),
        "encrypt-with-foreign-token",
    ),
    _breach(
        "a tenant's token creates keys that any tenant's key wraps",
        "a tenant creates keys in the hierarchy of another tenant",
        _any_tenant("transit/datakey/wrapped"),
        "make-key-with-foreign-token",
    ),
    _breach(
        "the worker may export keys",
        "tenant keys can be exported",
        _may("worker", "transit/export/*", "read"),
        "bring-in-or-take-out-as-worker",
    ),
    _breach(
        "a tenant's token may import versions of a key",
        "a caller imports a key whose material is known elsewhere",
        _may("tenant", "transit/keys/+/import_version", "update"),
        "bring-in-or-take-out-as-tenant",
    ),
    _breach(
        "the worker may make keys exportable, or deletable",
        "tenant keys can be exported with one more call",
        Policy("openkcm-worker", [(_LAST, f'{_LAST}\n    "exportable" = []\n    "deletion_allowed" = []')]),
        "let-the-key-be-exported-or-deleted",
    ),
    _breach(
        "an encryption creates a missing key",
        "the key of an erased tenant is created again by the first call",
        (
            Policy("openkcm-tenant", [(_ENCRYPTS, _ENCRYPTS.replace('["update"]', '["create", "update"]'))]),
            KeyServerWrite(
                "transit/config/keys",
                {"disable_upsert": False},
                {"disable_upsert": True},
                created_key="L2-openkcm-absent-primary",
            ),
        ),
        "encrypt-under-a-name-without-a-key",
    ),
    _breach(
        "the worker may use tenant keys",
        "one process can remove both wraps of every service key",
        _may("worker", "transit/decrypt/L2-*", "update"),
        "open-without-tenant-key",
    ),
    _breach(
        "a key is rotated without the platform",
        "a key version is not recorded",
        KeyServerWrite("transit/keys/L2-{tenant}-primary/rotate", {}),
        "versions-recorded",
    ),
    _breach(
        "a key is made deletable without the platform",
        "one call destroys the key of all data of a tenant",
        KeyServerWrite(
            "transit/keys/L2-{tenant}-primary/config", {"deletion_allowed": True}, {"deletion_allowed": False}
        ),
        "key-is-derived-and-stays-inside",
    ),
)

KEY_HIERARCHY = (
    _breach(
        "service keys are wrapped without the root key",
        "disabling the customer's root key has no effect",
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
        "one key wraps the service keys of two tenants",
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
        "a service key may name another tenant's key",
        "a row that refers to another tenant is accepted",
        Rows(*_reference_to_key("service_key")),
        "rows-under-another-key",
    ),
)

BREACHES = (*CRYPTO, *DATABASE, *KEY_SERVER, *KEY_HIERARCHY)
