"""Conversion of AWS error codes, and the policy statements that a customer must add after a denial."""

import json
import re

from core.errors.keys import (
    RootKeyClockSkew,
    RootKeyCredentialsRefused,
    RootKeyDenied,
    RootKeyDisabled,
    RootKeyMissing,
    RootKeyPendingDeletion,
    RootKeyServerError,
    RootKeyThrottled,
    RootKeyUnsuitable,
    WrongContext,
)
from core.keys.root_keys import key_policy_statements, trust_statement
from kms.network.http import HttpResponse
from openkcm.errors import OpenKcmError

_ACCOUNT = re.compile(r"arn:(aws[a-z-]*):sts::(\d{12}):assumed-role/([\w+=,.@-]+)/.*")
_XML_CODE = re.compile(rb"<Code>([A-Za-z.]{1,100})</Code>")
_XML_MESSAGE = re.compile(rb"<Message>(.{0,2000}?)</Message>", re.DOTALL)

_MEANINGS: dict[str, type[OpenKcmError]] = {
    "DisabledException": RootKeyDisabled,
    "NotFoundException": RootKeyMissing,
    "InvalidArnException": RootKeyMissing,
    "AccessDeniedException": RootKeyDenied,
    "AccessDenied": RootKeyDenied,
    "OptInRequired": RootKeyDenied,
    "UnrecognizedClientException": RootKeyCredentialsRefused,
    "InvalidClientTokenId": RootKeyCredentialsRefused,
    "InvalidAccessKeyId": RootKeyCredentialsRefused,
    "ExpiredTokenException": RootKeyCredentialsRefused,
    "ExpiredToken": RootKeyCredentialsRefused,
    "InvalidSignatureException": RootKeyCredentialsRefused,
    "SignatureDoesNotMatch": RootKeyCredentialsRefused,
    "IncompleteSignature": RootKeyCredentialsRefused,
    "MissingAuthenticationToken": RootKeyCredentialsRefused,
    "MissingAuthenticationTokenException": RootKeyCredentialsRefused,
    "RequestTimeTooSkewed": RootKeyClockSkew,
    "RequestExpired": RootKeyClockSkew,
    "ThrottlingException": RootKeyThrottled,
    "Throttling": RootKeyThrottled,
    "RequestLimitExceeded": RootKeyThrottled,
    "TooManyRequestsException": RootKeyThrottled,
    "LimitExceededException": RootKeyThrottled,
    "InvalidCiphertextException": WrongContext,
    "IncorrectKeyException": WrongContext,
    "InvalidKeyUsageException": RootKeyUnsuitable,
    "UnsupportedOperationException": RootKeyUnsuitable,
}
_SKEW = ("Signature expired", "Signature not yet current")


def refusal(answer: HttpResponse, action: str) -> OpenKcmError:
    """Return the error for a response other than 200 to `action` (`kms:Decrypt`), without AWS's message."""
    code, message = _code_and_message(answer)
    if any(part in message for part in _SKEW):
        return RootKeyClockSkew()
    if code in {"KMSInvalidStateException", "CustomKeyStoreInvalidStateException"}:
        return state_problem("PendingDeletion" if "pending deletion" in message else "Unavailable")
    meaning = _MEANINGS.get(code)
    if meaning is None:
        return RootKeyThrottled() if answer.status == 429 else RootKeyServerError()
    return meaning(f"{action} is denied") if meaning is RootKeyDenied else meaning()


def _code_and_message(answer: HttpResponse) -> tuple[str, str]:
    if found := _XML_CODE.search(answer.body):
        message = _XML_MESSAGE.search(answer.body)
        return found[1].decode(), message[1].decode("utf-8", "replace") if message else ""
    try:
        fields = answer.json()
    except RootKeyServerError:
        fields = {}
    code = str(fields.get("__type") or answer.headers.get("x-amzn-errortype") or "")
    return code.rpartition("#")[2].partition(":")[0], str(fields.get("message") or fields.get("Message") or "")


def state_problem(state: str) -> OpenKcmError:
    """Return the error for a key state other than Enabled."""
    match state:
        case "PendingDeletion" | "PendingReplicaDeletion":
            return RootKeyPendingDeletion()
        case "PendingImport":
            return RootKeyDisabled("the root key has no material", "import its key material")
        case "Disabled":
            return RootKeyDisabled()
        case _:
            return RootKeyDisabled("the root key is not usable in its present state", "check its state in AWS KMS")


def key_policy_hint(tenant_id: str, principal: str | None) -> str:
    """Return the statements that a key policy needs for `principal`, an ARN; None if it is unknown."""
    wanted = key_policy_statements(tenant_id, principal or "ARN OF THE USER WHOSE ACCESS KEYS WERE GIVEN")
    return f"add to the key's policy: {json.dumps(wanted)}"


def trust_policy_hint(tenant_id: str, principal: str | None) -> str:
    """Return the statement that a role's trust policy needs for `principal`, an ARN; None if it is unknown."""
    wanted = trust_statement(tenant_id, principal or "ARN OF THE PLATFORM, ASK THE OPERATOR")
    return f"add to the role's trust policy: {json.dumps([wanted])}"


def lasting_arn(arn: str) -> str:
    """Return the role's ARN for the ARN of a session, because a policy should not name a session."""
    if found := _ACCOUNT.fullmatch(arn):
        return f"arn:{found[1]}:iam::{found[2]}:role/{found[3]}"
    return arn
