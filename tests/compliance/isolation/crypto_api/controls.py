"""The controls of the crypto service, each removed in the running service, and which attacks must notice."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from cryptography import x509

import crypto_service.authentication
import crypto_service.https.server
import crypto_service.keys.operations
import crypto_service.kmip.operations.crypto
from core import names as ids
from core.errors.keys import KeyNotUsable
from core.errors.services import ObjectNotFound
from core.keys.encryption_context import Purpose
from core.services import CryptoOperation
from core.tenants.lifecycle import State
from crypto_service.audit.wal import WriteAheadLog
from crypto_service.authentication import ClientCertificateAuthenticator
from crypto_service.interfaces import ClientIdentity
from crypto_service.keys import ciphertext
from crypto_service.keys.key_cache import ServiceKeyCache
from crypto_service.kmip.objects.store import ObjectStore
from crypto_service.server.limits import TenantLimits
from openkcm.errors import InvalidName

Break = Callable[[pytest.MonkeyPatch], None]
ONE_KEY, SHARED = bytes(32), "shared-by-all"


def _skip_the_resource(patch: pytest.MonkeyPatch) -> None:
    place = crypto_service.keys.operations._place

    def anywhere(caller, purpose, resource) -> Any:
        return place(caller, purpose, resource if purpose is Purpose.MANAGED_OBJECT else "anything")

    patch.setattr(crypto_service.keys.operations, "_place", anywhere)


def _skip_the_purpose(patch: pytest.MonkeyPatch) -> None:
    """Decrypt a data key as data: trust its header and derive the context from it."""

    async def decrypt(self, caller, purpose, resource, text) -> Any:
        del purpose
        sealed = ciphertext.from_text(text)
        head = ciphertext.header(sealed)
        place = crypto_service.keys.operations._place(caller, head.purpose, resource)
        return ciphertext.unseal(await self._keyring.key(caller, head.key_version), place, sealed)

    patch.setattr(crypto_service.keys.operations.CryptoOperations, "_decrypt", decrypt)


def _share_keys(**fields: str) -> Break:
    """Use one key for all contexts with these fields; objects of KMIP are unchanged."""

    def patch_service(patch: pytest.MonkeyPatch) -> None:
        place, derived = crypto_service.keys.operations._place, ciphertext._derived

        def anywhere(caller, purpose, resource) -> Any:
            own = place(caller, purpose, resource)
            return own if purpose is Purpose.MANAGED_OBJECT else own._replace(**fields)

        def alike(key, salt, place) -> Any:
            shared = SHARED.encode() in place
            return derived(dataclasses.replace(key, material=ONE_KEY) if shared else key, salt, place)

        patch.setattr(crypto_service.keys.operations, "_place", anywhere)
        patch.setattr(ciphertext, "_derived", alike)

    return patch_service


def _one_key_for_all_objects(patch: pytest.MonkeyPatch) -> None:
    async def key(_batch, _managed) -> Any:
        return ONE_KEY

    patch.setattr(crypto_service.kmip.operations.crypto, "_key", key)


CUSTOMERS: dict[str, ClientIdentity] = {}
"""Object id → owner, for the objects of the customer's tenant."""


def _owners(patch: pytest.MonkeyPatch) -> dict[str, ClientIdentity]:
    """Return the owner of each object: those of the customer and those created later."""
    owners = dict(CUSTOMERS)
    add = ObjectStore.add

    async def remembering(self, caller, event_of: Any, *drafts: Any) -> Any:
        owners.update({draft.object_id: caller for draft in drafts})
        return await add(self, caller, event_of, *drafts)

    patch.setattr(ObjectStore, "add", remembering)
    return owners


def _look_up_without(what: str, *methods: str) -> Break:
    """Return objects to every caller, or to every service of the tenant if `what` is the service."""

    def patch_service(patch: pytest.MonkeyPatch) -> None:
        owners = _owners(patch)
        for name in methods:
            method = getattr(ObjectStore, name)

            async def found(self, caller, *about: Any, method=method) -> Any:
                first = about[0]
                owner = owners.get(first if isinstance(first, str) else first.row.object_id, caller)
                is_open = what == "tenant" or owner.tenant_id == caller.tenant_id
                return await method(self, owner if is_open else caller, *about)

            patch.setattr(ObjectStore, name, found)

    return patch_service


def _find_without_tenant(patch: pytest.MonkeyPatch) -> None:
    owners = _owners(patch)
    patch.setattr(TenantLimits, "charge", lambda *_: None)  # the other tenants have no request
    find, search = ObjectStore.named, ObjectStore.search

    async def named(self, _caller, *criteria: Any) -> Any:
        return [one for owner in set(owners.values()) for one in await find(self, owner, *criteria)]

    async def searched(self, _caller, charge, conditions, page: slice) -> Any:
        found = []
        for owner in set(owners.values()):
            of_owner = conditions._replace(service=owner.service, l2_key=owner.l2_key)
            found += (await search(self, owner, charge, of_owner, page))[1]
        return len(found), found

    patch.setattr(ObjectStore, "named", named)
    patch.setattr(ObjectStore, "search", searched)


def _distinguish_foreign_objects(patch: pytest.MonkeyPatch) -> None:
    owners, get = _owners(patch), ObjectStore.get

    async def distinguishing(self, caller, object_id) -> Any:
        try:
            return await get(self, caller, object_id)
        except ObjectNotFound:
            if object_id in owners:
                raise KeyNotUsable("not yours") from None
            raise

    patch.setattr(ObjectStore, "get", distinguishing)


def _distinguish_foreign_ciphertexts(patch: pytest.MonkeyPatch) -> None:
    """Reject a ciphertext of another tenant with another error than an altered one."""
    known, seal = set[bytes](), ciphertext.seal
    unseal = ciphertext.unseal

    def remembering(*arguments: Any) -> Any:
        made = seal(*arguments)
        known.add(made)
        return made

    def distinguishing(key, context, sealed) -> Any:
        try:
            return unseal(key, context, sealed)
        except crypto_service.keys.operations.CiphertextRefused:
            if sealed in known:
                raise InvalidName("ciphertext", "your own") from None
            raise

    patch.setattr(ciphertext, "seal", remembering)
    patch.setattr(ciphertext, "unseal", distinguishing)


def _claimed(data: bytes) -> ClientIdentity | None:
    _, found, rest = data.partition(b"x-tenant-id: ")
    if not found:
        return None
    tenant_id, service = rest.partition(b"\r\n")[0].decode().split("/")
    return ClientIdentity(tenant_id, service, ids.l2_key(tenant_id), "eu-west-1", "0", State.ACTIVE)


def _trust_headers(patch: pytest.MonkeyPatch) -> None:
    connection, callers = crypto_service.https.server._HttpsConnection, ClientCertificateAuthenticator
    received, current = connection.received, connection.current
    refresh, is_current = callers.refresh, callers.is_current
    claims: dict[int, ClientIdentity] = {}

    def reading(self, data) -> Any:
        claimed = _claimed(data)
        claims.pop(id(self), None)
        if claimed is not None:
            claims[id(self)] = claimed
        received(self, data)

    async def as_claimed(self) -> Any:
        return claims.get(id(self)) or await current(self)

    async def unasked(self, caller) -> Any:
        return caller if caller.serial == "0" else await refresh(self, caller)

    patch.setattr(connection, "received", reading)
    patch.setattr(connection, "is_current", lambda _: False)
    patch.setattr(connection, "current", as_claimed)
    patch.setattr(callers, "refresh", unasked)
    patch.setattr(callers, "is_current", lambda self, caller: caller.serial == "0" or is_current(self, caller))


def _accept_unknown_fields(patch: pytest.MonkeyPatch) -> None:
    parse = crypto_service.https.server.api.parse

    def lenient(model, body) -> Any:
        for tenant_id in ids.PLATFORM_TENANTS:
            body = body.replace(f', "tenant_id": "{tenant_id}"'.encode(), b"")
        return parse(model, body)

    patch.setattr(crypto_service.https.server.api, "parse", lenient)


def _trust_the_uri(patch: pytest.MonkeyPatch) -> None:
    """Take the tenant from the URI of the certificate, and do not verify its issuer."""
    presented = crypto_service.authentication._presented

    def by_uri(certificate_der) -> Any:
        leaf = presented(certificate_der)
        names = leaf.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
        return dataclasses.replace(leaf, tenant_id=uri.removeprefix("spiffe://").partition(".")[0])

    patch.setattr(crypto_service.authentication, "_presented", by_uri)
    patch.setattr(crypto_service.authentication, "_prove", lambda *_: None)


def _accept_unrecorded_certificates(patch: pytest.MonkeyPatch) -> None:
    read = ClientCertificateAuthenticator._read

    def admitting(self, leaf) -> Any:
        found, *ends = read(self, leaf)
        if getattr(found, "why", "") == "not recorded":
            found = ClientIdentity(
                leaf.tenant_id, "orders", ids.l2_key(leaf.tenant_id), "eu-west-1", leaf.serial, State.ACTIVE
            )
        return found, *ends

    patch.setattr(ClientCertificateAuthenticator, "_read", admitting)


def _forget_the_audit(*, refusals: bool) -> Break:
    def patch_service(patch: pytest.MonkeyPatch) -> None:
        write = WriteAheadLog.write

        async def forgetful(self, entries) -> Any:
            await write(self, [one for one in entries if bool(one.refused) is not refusals])

        patch.setattr(WriteAheadLog, "write", forgetful)

    return patch_service


def _record_only_unwraps(patch: pytest.MonkeyPatch) -> None:
    """Record the unwrapping of a key with the correlation id of its use, but not the use."""
    write = WriteAheadLog.write

    async def forgetful(self, entries) -> Any:
        await write(self, [one for one in entries if one.refused or one.operation is CryptoOperation.OPEN])

    patch.setattr(WriteAheadLog, "write", forgetful)
    patch.setattr(ServiceKeyCache, "_keep", lambda *_: None)


def _ignore_revocations(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ClientCertificateAuthenticator, "_is_fresh", lambda *_: True)


READS, CHANGES = ("get", "open", "open_written", "serve"), ("change",)
FOREIGN_TEXTS = {
    *(f"https-{what}-other-tenant" for what in ("decrypt", "rewrap", "open-data-key")),
    *("https-decrypt-other-service", "https-open-data-key-other-service", "https-claim-in-headers"),
}
CONTROLS: dict[str, tuple[Break, set[str]]] = {
    "the context leaves the resource out": (
        _skip_the_resource,
        {"https-decrypt-other-resource", "https-open-data-key-other-resource"},
    ),
    "the context leaves the purpose out": (_skip_the_purpose, {"https-decrypt-data-key-as-data"}),
    "all tenants share a key": (_share_keys(tenant_id=SHARED, l2_key=SHARED, service=SHARED), FOREIGN_TEXTS),
    "all services of a tenant share a key": (
        _share_keys(service=SHARED),
        {"https-decrypt-other-service", "https-open-data-key-other-service"},
    ),
    "all objects share a key": (
        _one_key_for_all_objects,
        {"kmip-decrypt-other-tenant", "kmip-decrypt-other-service", "kmip-decrypt-other-object"},
    ),
    "an object is read without its tenant": (
        _look_up_without("tenant", *READS),
        {"kmip-read-other-tenant", "kmip-read-other-service", "kmip-objects-of-tenant"},
    ),
    "an object is changed without its tenant": (
        _look_up_without("tenant", *CHANGES),
        {"kmip-change-other-tenant", "kmip-change-other-service"},
    ),
    "an object is looked up without its service": (
        _look_up_without("service", *READS, *CHANGES),
        {"kmip-read-other-service", "kmip-change-other-service"},
    ),
    "objects are found without their tenant": (
        _find_without_tenant,
        {"kmip-locate-other-tenant", "kmip-locate-other-service"},
    ),
    "errors distinguish objects of other services from missing ones": (
        _distinguish_foreign_objects,
        {"kmip-read-other-tenant", "kmip-read-other-service", "kmip-objects-of-tenant"},
    ),
    "errors distinguish ciphertexts of other tenants from altered ones": (
        _distinguish_foreign_ciphertexts,
        FOREIGN_TEXTS
        | {"https-decrypt-other-resource", "https-open-data-key-other-resource", "https-decrypt-data-key-as-data"},
    ),
    "headers determine the caller": (_trust_headers, {"https-claim-in-headers"}),
    "a request may name a tenant": (_accept_unknown_fields, {"https-claim-in-payload"}),
    "the URI of a certificate determines the tenant": (_trust_the_uri, {"certificate-with-other-tenant-in-uri"}),
    "an unrecorded certificate is accepted": (
        _accept_unrecorded_certificates,
        {"certificate-with-other-tenant-in-uri", "certificate-not-recorded"},
    ),
    "successful operations are not recorded": (_forget_the_audit(refusals=False), {"operations-recorded"}),
    "only the unwrapping of keys is recorded": (_record_only_unwraps, {"operations-recorded"}),
    "rejected operations are not recorded": (_forget_the_audit(refusals=True), {"refusals-recorded"}),
    "the service ignores revocations": (
        _ignore_revocations,
        {"revoked-on-open-connection", "revoked-on-new-connection"},
    ),
}
