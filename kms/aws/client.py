"""Signed requests to AWS KMS and STS over shared connections, each with its own credentials."""

import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import botocore.session
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import BotoCoreError

from core.errors.keys import RootKeyServerError, RootKeyUnreachable
from kms.aws.errors import refusal
from kms.network.http import HttpResponse, Server, Transport

_SUFFIXES = {"aws": "amazonaws.com", "aws-us-gov": "amazonaws.com", "aws-cn": "amazonaws.com.cn"}
SESSION_SECONDS = 900
"""The shortest session that AWS permits: a change of the role's trust policy takes effect within this time."""


@dataclass(frozen=True, slots=True)
class Region:
    """The AWS region of a key; `partition` is the second part of its ARN."""

    name: str
    partition: str

    @property
    def is_known(self) -> bool:
        return self.partition in _SUFFIXES

    def address(self, service: str) -> str:
        return f"https://{service}.{self.name}.{_SUFFIXES[self.partition]}"


class PlatformIdentity:
    """The platform's AWS credentials from botocore's credential chain, which renews them automatically.

    Environment variables select the credentials, as AWS documents; so botocore also uses the proxies in them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: Any = None

    def credentials(self) -> ReadOnlyCredentials:
        """Return the current credentials; raises RootKeyUnreachable, because the customer revoked nothing."""
        try:
            with self._lock:
                if self._found is None:
                    self._found = botocore.session.Session().get_credentials()
            if self._found is not None:
                frozen: ReadOnlyCredentials = self._found.get_frozen_credentials()
                return frozen
        except BotoCoreError:
            pass
        raise RootKeyUnreachable("the platform has no AWS identity to assume the role with", "contact the operator")


class AwsCalls:
    def __init__(self, transport: Transport, endpoint: str | None) -> None:
        self._transport = transport
        self._endpoint = endpoint

    def kms(
        self, region: Region, action: str, fields: Mapping[str, Any], credentials: ReadOnlyCredentials
    ) -> dict[str, Any]:
        """Return the fields of the response; raises the error for an AWS error code."""
        headers = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": f"TrentService.{action}"}
        answer = self._send("kms", region, headers, json.dumps(fields).encode(), credentials)
        if answer.status != 200:
            raise refusal(answer, f"kms:{action}")
        return answer.json()

    def assume_role(
        self, region: Region, role_arn: str, external_id: str, credentials: ReadOnlyCredentials
    ) -> tuple[ReadOnlyCredentials, float]:
        """Return the role's credentials and their lifetime in seconds."""
        answer = self._sts(
            region,
            credentials,
            "AssumeRole",
            RoleArn=role_arn,
            RoleSessionName="openkcm",
            ExternalId=external_id,
            DurationSeconds=str(SESSION_SECONDS),
        )
        found = [_element(answer, name) for name in ("AccessKeyId", "SecretAccessKey", "SessionToken", "Expiration")]
        try:
            until = datetime.fromisoformat(found[3])
        except ValueError:
            raise RootKeyServerError from None
        life = (until - datetime.now(UTC)).total_seconds()
        return ReadOnlyCredentials(found[0], found[1], found[2]), max(0.0, min(life, SESSION_SECONDS))

    def caller(self, region: Region, credentials: ReadOnlyCredentials) -> str:
        """Return the ARN of the credentials' owner; AWS permits this call without a policy."""
        return _element(self._sts(region, credentials, "GetCallerIdentity"), "Arn")

    def _sts(self, region: Region, credentials: ReadOnlyCredentials, action: str, **fields: str) -> HttpResponse:
        headers = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
        body = urlencode({"Action": action, "Version": "2011-06-15", **fields}).encode()
        answer = self._send("sts", region, headers, body, credentials)
        if answer.status != 200:
            raise refusal(answer, f"sts:{action}")
        return answer

    def _send(
        self, service: str, region: Region, headers: Mapping[str, str], body: bytes, credentials: ReadOnlyCredentials
    ) -> HttpResponse:
        address = self._endpoint or region.address(service)
        request = AWSRequest(method="POST", url=f"{address}/", data=body, headers=dict(headers))
        SigV4Auth(credentials, service, region.name).add_auth(request)
        return self._transport.send(Server.at(address), "POST", "/", dict(request.headers.items()), body)


def _element(answer: HttpResponse, name: str) -> str:
    """Return the text of an element of STS's XML; each requested name occurs once, and its text has no entity."""
    found = re.search(rf"<{name}>([^<&]{{1,4096}})</{name}>".encode(), answer.body)
    if found is None:
        raise RootKeyServerError
    return found[1].decode("utf-8", "replace")
