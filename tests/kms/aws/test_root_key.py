"""The contract of root keys for AWS KMS, with a real server that enforces policies and key states."""

import json
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from core.errors.keys import (
    RootKeyClockSkew,
    RootKeyCredentialsRefused,
    RootKeyDenied,
    RootKeyDisabled,
    RootKeyMissing,
    RootKeyPendingDeletion,
    RootKeyRefused,
    RootKeyServerError,
    RootKeyThrottled,
    RootKeyTimeout,
    RootKeyUnreachable,
    RootKeyUnsuitable,
    WrongContext,
)
from core.keys.encryption_context import EncryptionContext, Purpose
from core.keys.root_keys import AwsKmsKeyRef, Credentials, external_id
from kms.aws.root_key import encryption_context
from kms.egress_policy import EgressPolicy
from kms.interfaces import RootKey
from kms.providers import RootKeyProviders
from openkcm.errors import OpenKcmError
from tests.contracts.root_keys import CONTEXT, INNER, TENANT, RootKeyContract
from tests.kms.fault_proxy import COMMON, Fault, FaultProxy, answering
from tests.kms.ministack import ACTIONS, Key, MiniStack, User
from tests.kms.softhsm import SoftHsm, module
from tests.kms.undoing import undone

pytestmark = pytest.mark.integration


@dataclass
class AwsHolder:
    root_key: RootKey
    aws: MiniStack
    key: Key
    user: User
    proxy: FaultProxy

    @property
    def another(self) -> RootKey:
        key = self.aws.key()
        key.allow(self.user.arn)
        return self.open_root_key(key.place())

    @property
    def missing(self) -> RootKey:
        # AWS denies access to a missing key for a user without permissions other than for single keys.
        anywhere = self.aws.user(f"anywhere-{uuid.uuid4().hex}", *ACTIONS)
        return self.open_root_key(AwsKmsKeyRef(key_arn=f"{self.key.arn[:-4]}0000"), anywhere.credentials())

    def open_root_key(self, place: AwsKmsKeyRef, credentials: Credentials | None = None, **reach: Any) -> RootKey:
        reach = {"aws_endpoint": self.proxy.url, **reach}
        return RootKeyProviders(EgressPolicy(**reach)).open(TENANT, place, credentials or self.user.credentials())

    def disabled(self) -> AbstractContextManager[None]:
        return undone(self.key.disable, self.key.enable)

    def denied(self) -> AbstractContextManager[None]:
        return undone(self.key.allow, lambda: self.key.allow(self.user.arn))

    def down(self) -> AbstractContextManager[None]:
        # A killed MiniStack would lose its keys, so the proxy before it is stopped.
        return undone(self.proxy.stop, self.proxy.start_again)


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MiniStack]:
    aws = MiniStack.start(tmp_path_factory.mktemp("aws"))
    yield aws
    aws.kill()


@pytest.fixture(scope="module")
def user(aws: MiniStack) -> User:
    return aws.user("openkcm")


@pytest.fixture
def holder(aws: MiniStack, user: User) -> Iterator[AwsHolder]:
    key = aws.key()
    key.allow(user.arn)
    with FaultProxy.running(aws.url) as proxy:
        root_key = RootKeyProviders(EgressPolicy(aws_endpoint=proxy.url)).open(TENANT, key.place(), user.credentials())
        yield AwsHolder(root_key, aws, key, user, proxy)


@pytest.fixture(scope="module")
def platforms_user(aws: MiniStack) -> User:
    return aws.user("platform")


@pytest.fixture
def platform(platforms_user: User, monkeypatch: pytest.MonkeyPatch) -> User:
    """Set the identity that botocore finds in the environment of this process."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", platforms_user.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", platforms_user.secret_access_key)
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    return platforms_user


@pytest.fixture
def unique() -> str:
    return f"role-{uuid.uuid4().hex[:12]}"


class TestAwsRootKey(RootKeyContract):
    pass


def statements_in(hint: str) -> Any:
    return json.loads(hint[hint.index("[") :])


def types(problems: Sequence[OpenKcmError]) -> list[type[OpenKcmError]]:
    return [type(problem) for problem in problems]


class TestKeyChanges:
    def test_key_pending_deletion_is_distinguished_from_a_disabled_key(self, holder: AwsHolder) -> None:
        wrapped = holder.root_key.wrap(CONTEXT, INNER)
        holder.key.schedule_deletion()
        with pytest.raises(RootKeyPendingDeletion):
            holder.root_key.wrap(CONTEXT, INNER)
        with pytest.raises(RootKeyPendingDeletion):
            holder.root_key.unwrap(CONTEXT, wrapped)
        assert types(holder.root_key.validate()) == [RootKeyPendingDeletion]
        holder.key.cancel_deletion()
        with pytest.raises(RootKeyDisabled):
            holder.root_key.unwrap(CONTEXT, wrapped)
        holder.key.enable()
        assert holder.root_key.unwrap(CONTEXT, wrapped) == INNER

    def test_key_of_another_region_is_missing_and_a_hidden_one_is_missing_or_denied(self, holder: AwsHolder) -> None:
        place = AwsKmsKeyRef(key_arn=holder.key.arn.replace("eu-west-1", "us-east-1"))
        anywhere = holder.aws.user(f"anywhere-{uuid.uuid4().hex}", *ACTIONS)
        assert types(holder.open_root_key(place, anywhere.credentials()).validate()) == [RootKeyMissing]
        (problem,) = holder.open_root_key(AwsKmsKeyRef(key_arn=f"{holder.key.arn[:-4]}0000")).validate()
        assert type(problem) is RootKeyDenied
        assert "or the key does not exist" in problem.message

    @pytest.mark.parametrize(
        ("more", "expected"),
        [
            ({"KeySpec": "RSA_2048", "KeyUsage": "ENCRYPT_DECRYPT"}, [RootKeyUnsuitable]),
            ({"KeySpec": "RSA_2048", "KeyUsage": "SIGN_VERIFY"}, [RootKeyUnsuitable, RootKeyUnsuitable]),
            ({"KeySpec": "HMAC_256", "KeyUsage": "GENERATE_VERIFY_MAC"}, [RootKeyUnsuitable, RootKeyUnsuitable]),
            ({"Origin": "EXTERNAL"}, [RootKeyDisabled]),
        ],
        ids=str,
    )
    def test_preflight_reports_why_a_key_is_unsuitable(self, holder, more, expected) -> None:
        key = holder.aws.key(**more)
        key.allow(holder.user.arn)
        root_key = holder.open_root_key(key.place())
        assert types(root_key.validate()) == expected
        with pytest.raises((RootKeyUnsuitable, RootKeyDisabled)):
            root_key.wrap(CONTEXT, INNER)

    def test_customers_trail_shows_tenant_and_service_of_each_request(self, holder: AwsHolder) -> None:
        holder.root_key.wrap(CONTEXT._replace(object_id=""), INNER)
        assert json.loads(holder.proxy.seen[-1].body)["EncryptionContext"] == {
            "openkcm:tenant": TENANT,
            "openkcm:l2-key": CONTEXT.l2_key,
            "openkcm:service": CONTEXT.service,
            "openkcm:purpose": "service-key",
        }


# Few characters are drawn fast, and two contexts are often equal or differ only in the end of a field.
FIELD = st.text("a:/=", max_size=3)


@given(*[st.tuples(FIELD, FIELD, st.sampled_from(Purpose), FIELD)] * 2)
def test_different_contexts_have_different_aws_encryption_contexts(
    one: tuple[Any, ...], other: tuple[Any, ...]
) -> None:
    first, second = (EncryptionContext("acme-corp", *fields) for fields in (one, other))
    assert (encryption_context(first) == encryption_context(second)) is (first == second)


class TestCredentials:
    @pytest.mark.parametrize("field", ["access_key_id", "secret_access_key"])
    def test_rejected_access_keys_are_distinguished_from_a_policy_denial(self, holder: AwsHolder, field: str) -> None:
        wrong = holder.user.credentials().model_copy(update={field: SecretStr("AKIA0000000000000000")})
        root_key = holder.open_root_key(holder.key.place(), wrong)
        with pytest.raises(RootKeyCredentialsRefused):
            root_key.wrap(CONTEXT, INNER)
        assert types(root_key.validate()) == [RootKeyCredentialsRefused]

    def test_role_is_assumed_once_for_many_requests(self, holder: AwsHolder, platform: User, unique: str) -> None:
        role = holder.aws.role(unique, platform.arn, external_id(TENANT))
        holder.key.allow(role)
        root_keys = RootKeyProviders(EgressPolicy(aws_endpoint=holder.proxy.url))
        opened = [root_keys.open(TENANT, holder.key.place(role), Credentials()) for _ in range(4)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda number: opened[number % 4].wrap(CONTEXT, INNER), range(24)))
        assert sum(seen.matches("AssumeRole") for seen in holder.proxy.seen) == 1

    def test_preflight_names_the_trust_policy_for_the_platform(
        self, holder: AwsHolder, platform: User, unique: str
    ) -> None:
        role = holder.aws.role(unique, platform.arn, external_id("other-corp"))
        holder.key.allow(role)
        root_key = holder.open_root_key(holder.key.place(role), Credentials())
        (denied,) = root_key.validate()
        assert (type(denied), denied.message) == (RootKeyDenied, "sts:AssumeRole is denied")
        statements = statements_in(denied.hint)
        assert [statement["Principal"] for statement in statements] == [{"AWS": platform.arn}]
        policy = json.dumps({"Version": "2012-10-17", "Statement": statements})
        holder.aws.client("iam").update_assume_role_policy(RoleName=unique, PolicyDocument=policy)
        assert root_key.validate() == []

    def test_preflight_detects_at_once_that_a_role_no_longer_trusts_the_access_keys(self, holder, unique) -> None:
        role = holder.aws.role(unique, holder.user.arn, external_id(TENANT))
        holder.key.allow(role)
        root_key = holder.open_root_key(holder.key.place(role))
        assert root_key.validate() == []
        root_key.wrap(CONTEXT, INNER)
        holder.aws.trust(unique, holder.user.arn, "another")
        assert types(root_key.validate()) == [RootKeyDenied]

    def test_missing_platform_identity_is_reported_as_unreachable(self, holder, monkeypatch) -> None:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
        monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
        root_key = holder.open_root_key(holder.key.place("arn:aws:iam::000000000000:role/any"), Credentials())
        with pytest.raises(RootKeyUnreachable, match="no AWS identity"):
            root_key.wrap(CONTEXT, INNER)


@pytest.mark.parametrize(
    "missing",
    [("kms:Encrypt",), ("kms:Decrypt",), ("kms:DescribeKey",), ("kms:Encrypt", "kms:DescribeKey")],
    ids=",".join,
)
def test_preflight_names_each_denied_action_and_its_hint_fixes_them(holder, missing) -> None:
    holder.key.allow(holder.user.arn, actions=tuple(action for action in ACTIONS if action not in missing))
    (denied,) = holder.root_key.validate()
    assert type(denied) is RootKeyDenied
    assert [action for action in ACTIONS if f"{action} " in denied.message.replace("perhaps kms:Decrypt ", "")] == [
        action for action in ACTIONS if action in missing
    ]
    statements = statements_in(denied.hint)
    assert {statement["Principal"]["AWS"] for statement in statements} == {holder.user.arn}
    condition = statements[0].pop("Condition")  # MiniStack does not support this condition
    assert condition == {"StringEquals": {"kms:EncryptionContext:openkcm:tenant": TENANT}}
    policy = json.dumps({"Version": "2012-10-17", "Statement": statements})
    holder.key.client.put_key_policy(KeyId=holder.key.arn, PolicyName="default", Policy=policy)
    assert holder.root_key.validate() == []


def error_response(status: int, code: str, message: str = "") -> Fault:
    return answering(status, {"__type": code, "message": message})


class TestConnectionFaults:
    @pytest.mark.parametrize(
        ("fault", "expected"),
        [
            (error_response(400, "AccessDeniedException"), RootKeyDenied),
            (error_response(400, "ThrottlingException"), RootKeyThrottled),
            (error_response(429, "TooManyRequestsException"), RootKeyThrottled),
            (error_response(500, "KMSInternalException"), RootKeyServerError),
            (error_response(500, "KeyUnavailableException"), RootKeyServerError),
            (error_response(503, "DependencyTimeoutException"), RootKeyServerError),
            (
                error_response(400, "InvalidSignatureException", "Signature expired: 1 is now earlier than 2"),
                RootKeyClockSkew,
            ),
            (error_response(400, "InvalidSignatureException", "Signature not yet current: 1"), RootKeyClockSkew),
            (error_response(400, "RequestTimeTooSkewed"), RootKeyClockSkew),
            (error_response(400, "InvalidSignatureException", "does not match"), RootKeyCredentialsRefused),
            (error_response(400, "ExpiredTokenException"), RootKeyCredentialsRefused),
            (error_response(400, "IncorrectKeyException"), WrongContext),
            (error_response(400, "KMSInvalidStateException", "is pending import."), RootKeyDisabled),
            (error_response(400, "com.amazonaws.kms#DisabledException"), RootKeyDisabled),
            (error_response(400, "UnknownException"), RootKeyServerError),
            (answering(200, {"Plaintext": 5}), RootKeyServerError),
            *COMMON,
        ],
        ids=lambda value: getattr(value, "__name__", str(value)),
    )
    def test_each_fault_has_its_error(self, holder: AwsHolder, fault: Fault, expected: type[OpenKcmError]) -> None:
        patient = holder.open_root_key(holder.key.place(), timeout_seconds=60)
        root_key = holder.open_root_key(holder.key.place(), timeout_seconds=0.4 if expected is RootKeyTimeout else 60)
        wrapped = patient.wrap(CONTEXT, INNER)
        holder.proxy.seen.clear()
        with holder.proxy.spoiling(fault, only="Decrypt"), pytest.raises(OpenKcmError) as failed:
            root_key.unwrap(CONTEXT, wrapped)
        assert type(failed.value) is expected
        assert len(holder.proxy.seen) == 1, "no retry and no redirect"
        assert patient.unwrap(CONTEXT, wrapped) == INNER

    def test_denied_role_is_read_from_the_xml_of_sts(self, holder: AwsHolder, platform: User, unique: str) -> None:
        role = holder.aws.role(unique, platform.arn, external_id(TENANT))
        said = b"<ErrorResponse><Error><Code>%s</Code><Message>%s</Message></Error></ErrorResponse>"
        for code, message, expected in (
            (b"SignatureDoesNotMatch", b"Signature expired: now earlier", RootKeyClockSkew),
            (b"InvalidClientTokenId", b"", RootKeyCredentialsRefused),
            (b"Throttling", b"Rate exceeded", RootKeyThrottled),
            (b"AccessDenied", b"not authorized", RootKeyDenied),
        ):
            with holder.proxy.spoiling(answering(403, said % (code, message)), only="AssumeRole"):
                (problem,) = holder.open_root_key(holder.key.place(role), Credentials()).validate()
                assert type(problem) is expected

    def test_hanging_server_times_out(self, holder: AwsHolder) -> None:
        root_key = holder.open_root_key(holder.key.place(), timeout_seconds=0.3)
        with undone(holder.aws.pause, holder.aws.resume), pytest.raises(RootKeyTimeout):
            root_key.wrap(CONTEXT, INNER)


def test_unsupported_aws_partition_is_rejected_before_any_request(user: User) -> None:
    place = AwsKmsKeyRef(key_arn="arn:aws-iso:kms:us-iso-east-1:000000000000:key/1")
    with pytest.raises(RootKeyRefused):
        RootKeyProviders(EgressPolicy()).open(TENANT, place, user.credentials())


_FORKED = """
import os, sys
from pathlib import Path
from pydantic import SecretStr
from kms.egress_policy import EgressPolicy
from kms.providers import RootKeyProviders
from core.keys.root_keys import AwsKmsKeyRef, Credentials, Pkcs11KeyRef
from tests.contracts.root_keys import CONTEXT, INNER
module, endpoint, arn, key_id, secret = sys.argv[1:]
policy = EgressPolicy(aws_endpoint=endpoint, pkcs11_module=Path(module), pkcs11_tokens={"forked": "acme-corp"})
root_keys = RootKeyProviders(policy)
token = Pkcs11KeyRef(token="forked", key="openkcm-root")
keys = Credentials(access_key_id=SecretStr(key_id), secret_access_key=SecretStr(secret))
opened = [
    root_keys.open("acme-corp", token, Credentials(pin=SecretStr("1234-user"))),
    root_keys.open("acme-corp", AwsKmsKeyRef(key_arn=arn), keys),
]
def is_well(root_key):
    return all(root_key.unwrap(CONTEXT, root_key.wrap(CONTEXT, INNER)) == INNER for _ in range(20))
children = []
for _ in range(3):
    if (child := os.fork()) == 0:
        try:
            os._exit(0 if all(map(is_well, opened)) else 1)
        finally:
            os._exit(2)
    children.append(child)
assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0, 0]
assert all(map(is_well, opened))
"""


def test_process_may_fork_before_the_first_use_of_a_root_key(aws, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SOFTHSM2_CONF", "")
    hsm = SoftHsm.create(tmp_path)
    hsm.make_token("forked")
    hsm.make_key("forked")
    user, key = aws.user("forked"), aws.key()
    key.allow(user.arn)
    arguments = [str(module()), aws.url, key.arn, user.access_key_id, user.secret_access_key]
    done = subprocess.run(
        [sys.executable, "-c", _FORKED, *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
