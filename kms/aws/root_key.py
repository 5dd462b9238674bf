"""BYOK: a symmetric key in AWS KMS in the customer's account.

The customer's key policy allows kms:Encrypt, kms:Decrypt and kms:DescribeKey for a role, which the platform assumes
with the tenant's external id, or for a user whose access keys the platform has. The context is sent as the encryption
context, field by field, so that the customer's CloudTrail shows tenant and service of each decryption.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from botocore.credentials import ReadOnlyCredentials

from core.errors.keys import (
    CustomerKeyError,
    RootKeyCredentialsRefused,
    RootKeyDenied,
    RootKeyMissing,
    RootKeyRefused,
    RootKeyServerError,
    RootKeyUnsuitable,
    WrongContext,
)
from core.keys.encryption_context import EncryptionContext
from core.keys.root_keys import AwsKmsKeyRef, Credentials, external_id
from kms.aws.client import AwsCalls, PlatformIdentity, Region
from kms.aws.errors import key_policy_hint, lasting_arn, state_problem, trust_policy_hint
from kms.egress_policy import EgressPolicy
from kms.interfaces import RootKey
from kms.network.http import Transport
from kms.network.session_cache import Sessions
from kms.self_test import round_trip_problems
from openkcm.errors import OpenKcmError

ACTIONS = ("kms:Encrypt", "kms:Decrypt", "kms:DescribeKey")
_LARGEST_CIPHERTEXT = 6144


@dataclass(frozen=True, slots=True)
class _Shared:
    calls: AwsCalls
    platform: PlatformIdentity
    assumed: Sessions[ReadOnlyCredentials]


class AwsKms:
    """The provider: the connections and sessions that the root keys of all customers share."""

    def __init__(self, reach: EgressPolicy) -> None:
        transport = Transport(reach.timeout_seconds, lambda _address, _encrypted: True, kept=64)
        self._shared = _Shared(AwsCalls(transport, reach.aws_endpoint), PlatformIdentity(), Sessions())

    def open(self, tenant_id: str, place: AwsKmsKeyRef, credentials: Credentials) -> RootKey:
        """Return the root key without a connection. Raises RootKeyRefused for an unsupported AWS partition."""
        region = Region(place.region, place.key_arn.split(":")[1])
        if not region.is_known:
            raise RootKeyRefused("key_arn: this partition of AWS is not supported", "use aws, aws-cn or aws-us-gov")
        identity = AwsIdentity(tenant_id, place.role_arn, credentials, region, self._shared)
        return AwsKmsRootKey(tenant_id, place, region, self._shared.calls, identity)


class AwsIdentity:
    """The AWS identity for one root key: a role, or the owner of access keys."""

    def __init__(self, tenant_id: str, role: str | None, given: Credentials, region: Region, shared: _Shared) -> None:
        self._tenant_id = tenant_id
        self._external_id = external_id(tenant_id)
        self._role = role
        self._given = given
        self._region = region
        self._shared = shared
        identity = json.dumps([tenant_id, role, region.name, given.dump().decode()])
        self._session = hashlib.sha256(identity.encode()).digest()

    def credentials(self) -> ReadOnlyCredentials:
        """Return the credentials for signatures; raises the errors of `_assume`."""
        if self._role is None:
            return self._own()
        return self._shared.assumed.current(self._session, self._assume)

    def renewed(self) -> ReadOnlyCredentials:
        """Return credentials after the role was assumed again, which detects a revoked trust policy."""
        if self._role is not None:
            self.forget(self.credentials())
        return self.credentials()

    def forget(self, refused: ReadOnlyCredentials) -> None:
        """Drop a session that AWS rejected."""
        if self._role is not None:
            self._shared.assumed.forget(self._session, refused)

    def principal(self) -> str | None:
        """Return the ARN that a key policy should name; None if it cannot be determined."""
        return self._role or self._caller()

    def _assume(self) -> tuple[ReadOnlyCredentials, float]:
        try:
            return self._shared.calls.assume_role(self._region, self._role or "", self._external_id, self._own())
        except RootKeyCredentialsRefused:
            raise
        except RootKeyDenied as denied:
            hint = trust_policy_hint(self._tenant_id, self._caller())
            raise RootKeyDenied(denied.message, hint) from None

    def _own(self) -> ReadOnlyCredentials:
        key_id, secret = self._given.access_key_id, self._given.secret_access_key
        if key_id is None or secret is None:
            return self._shared.platform.credentials()
        return ReadOnlyCredentials(key_id.get_secret_value(), secret.get_secret_value(), None)

    def _caller(self) -> str | None:
        try:
            return lasting_arn(self._shared.calls.caller(self._region, self._own()))
        except CustomerKeyError:
            return None


class AwsKmsRootKey:
    """An `interfaces.RootKey` in AWS KMS; each operation is one request."""

    def __init__(
        self, tenant_id: str, place: AwsKmsKeyRef, region: Region, calls: AwsCalls, identity: AwsIdentity
    ) -> None:
        self._tenant_id = tenant_id
        self._place = place
        self._region = region
        self._calls = calls
        self._identity = identity

    def wrap(self, context: EncryptionContext, inner: bytes) -> bytes:
        """Encrypt under the key's current material."""
        answer = self._call("Encrypt", Plaintext=_text(inner), EncryptionContext=encryption_context(context))
        return _bytes(answer, "CiphertextBlob")

    def unwrap(self, context: EncryptionContext, wrapped: bytes) -> bytes:
        """Decrypt; the request names the key, so that AWS rejects a ciphertext of another key in the account."""
        if not 1 <= len(wrapped) <= _LARGEST_CIPHERTEXT:
            raise WrongContext
        answer = self._call("Decrypt", CiphertextBlob=_text(wrapped), EncryptionContext=encryption_context(context))
        return _bytes(answer, "Plaintext")

    def version_of(self, wrapped: bytes) -> int | None:
        """Return None, because AWS KMS does not disclose which key material it used."""
        del wrapped
        return None

    def validate(self) -> Sequence[OpenKcmError]:
        """Assume the role again, check the key's properties and test it; report each denied action with its remedy."""
        denied: list[str] = []
        problems: list[OpenKcmError] = []
        try:
            self._identity.renewed()
            problems += self._unsuitable(denied)
            if not problems:
                problems += self._round_trip(denied)
        except CustomerKeyError as problem:
            return (problem,)
        if denied:
            hint = key_policy_hint(self._tenant_id, self._identity.principal())
            # AWS does not disclose whether a key exists to a caller without any other permission.
            doubt = ", or the key does not exist" if {"kms:Encrypt", "kms:DescribeKey"} <= set(denied) else ""
            problems.insert(0, RootKeyDenied(f"{' and '.join(denied)} denied for the platform{doubt}", hint))
        return problems

    def _unsuitable(self, denied: list[str]) -> Iterator[OpenKcmError]:
        try:
            found = self._call("DescribeKey").get("KeyMetadata")
        except RootKeyCredentialsRefused:
            raise
        except RootKeyDenied:
            denied.append("kms:DescribeKey")
            return
        except RootKeyMissing as problem:
            yield problem
            return
        key = found if isinstance(found, dict) else {}
        if (spec := key.get("KeySpec")) != "SYMMETRIC_DEFAULT":
            yield RootKeyUnsuitable(f"the key's spec is {str(spec)[:40]}", "use one of spec SYMMETRIC_DEFAULT")
        if (usage := key.get("KeyUsage")) != "ENCRYPT_DECRYPT":
            yield RootKeyUnsuitable(f"the key's usage is {str(usage)[:40]}", "use one of usage ENCRYPT_DECRYPT")
        if (state := key.get("KeyState")) != "Enabled":
            yield state_problem(str(state))

    def _round_trip(self, denied: list[str]) -> Iterator[OpenKcmError]:
        for problem in round_trip_problems(self, self._tenant_id):
            if type(problem) is RootKeyDenied:
                denied.append(problem.message.partition(" ")[0])
                # Without a ciphertext, decryption cannot be tested.
                if "kms:Encrypt" in denied:
                    denied.append("perhaps kms:Decrypt")
            else:
                yield problem

    def _call(self, action: str, **fields: Any) -> dict[str, Any]:
        credentials = self._identity.credentials()
        try:
            return self._calls.kms(self._region, action, {"KeyId": self._place.key_arn, **fields}, credentials)
        except RootKeyCredentialsRefused:
            self._identity.forget(credentials)
            raise


def encryption_context(context: EncryptionContext) -> dict[str, str]:
    """Return the context as an AWS encryption context, without empty fields, because AWS accepts no empty value.

    The mapping is still injective: the names are fixed, and only an empty field is left out.
    """
    context.encode()
    fields = {
        "openkcm:tenant": context.tenant_id,
        "openkcm:l2-key": context.l2_key,
        "openkcm:service": context.service,
        "openkcm:purpose": context.purpose.value,
        "openkcm:object": context.object_id,
    }
    return {name: value for name, value in fields.items() if value}


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")


def _bytes(answer: dict[str, Any], name: str) -> bytes:
    try:
        return base64.b64decode(answer[name], validate=True)
    except (KeyError, TypeError, binascii.Error):
        raise RootKeyServerError from None
