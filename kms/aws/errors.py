"""From AWS's error codes to ours, and the statements a customer has to add where something is denied."""

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
    """Return what an answer other than 200 to `action` (`kms:Decrypt`) means; AWS's own words stay out of it."""
    code, said = _code_and_message(answer)
    if any(part in said for part in _SKEW):
        return RootKeyClockSkew()
    if code in {"KMSInvalidStateException", "CustomKeyStoreInvalidStateException"}:
        return state_problem("PendingDeletion" if "pending deletion" in said else "Unavailable")
    meaning = _MEANINGS.get(code)
    if meaning is None:
        return RootKeyThrottled() if answer.status == 429 else RootKeyServerError()
    return meaning(f"{action} is denied") if meaning is RootKeyDenied else meaning()


def _code_and_message(answer: HttpResponse) -> tuple[str, str]:
    if found := _XML_CODE.search(answer.body):
        message = _XML_MESSAGE.search(answer.body)
        return found[1].decode(), message[1].decode("utf-8", "replace") if message else ""
    try:
        told = answer.json()
    except RootKeyServerError:
        told = {}
    code = str(told.get("__type") or answer.headers.get("x-amzn-errortype") or "")
    return code.rpartition("#")[2].partition(":")[0], str(told.get("message") or told.get("Message") or "")


def state_problem(state: str) -> OpenKcmError:
    """Return what a key's state other than Enabled means."""
    match state:
        case "PendingDeletion" | "PendingReplicaDeletion":
            return RootKeyPendingDeletion()
        case "PendingImport":
            return RootKeyDisabled("the root key has no material", "import its key material")
        case "Disabled":
            return RootKeyDisabled()
        case _:
            return RootKeyDisabled("the root key is not usable in its present state", "look at its state in AWS KMS")


def key_policy_hint(tenant_id: str, principal: str | None) -> str:
    """Return what a key's policy has to say for `principal`, an ARN, None where it could not be found out."""
    wanted = key_policy_statements(tenant_id, principal or "ARN OF THE USER WHOSE ACCESS KEYS WERE GIVEN")
    return f"add to the key's policy: {json.dumps(wanted)}"


def trust_policy_hint(tenant_id: str, principal: str | None) -> str:
    """Return what a role's trust policy has to say for `principal`, an ARN, None where it could not be found out."""
    wanted = trust_statement(tenant_id, principal or "ARN OF THE PLATFORM, ASK THE OPERATOR")
    return f"add to the role's trust policy: {json.dumps([wanted])}"


def lasting_arn(arn: str) -> str:
    """Return the role behind the ARN of a session, for a policy should not name a session."""
    if found := _ACCOUNT.fullmatch(arn):
        return f"arn:{found[1]}:iam::{found[2]}:role/{found[3]}"
    return arn
