"""A real HTTP server of AWS KMS, STS and IAM on loopback (MiniStack), which enforces key states and policies.

aws = MiniStack.start(folder)
user, key = aws.user("kcm"), aws.key()
key.allow(user.arn)
root_key = RootKeyProviders(EgressPolicy(aws_endpoint=aws.url)).open(TENANT, key.place(), user.credentials())
key.disable(); key.enable(); key.allow(); key.schedule_deletion(); key.cancel_deletion(); aws.kill(); aws.pause()
"""

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import botocore.session
import urllib3
from botocore.config import Config
from pydantic import SecretStr

from core.keys.root_keys import AwsKmsKeyRef, Credentials
from tests.pausing import pause, resume

REGION = "eu-west-1"
ROOT = "arn:aws:iam::000000000000:root"
ACTIONS = ("kms:Encrypt", "kms:Decrypt", "kms:DescribeKey")


@dataclass(frozen=True)
class User:
    """A user with access keys; the policies of the keys grant its permissions."""

    arn: str
    access_key_id: str
    secret_access_key: str

    def credentials(self) -> Credentials:
        return Credentials(
            access_key_id=SecretStr(self.access_key_id), secret_access_key=SecretStr(self.secret_access_key)
        )


@dataclass
class Key:
    """A key with the operations of its owner."""

    arn: str
    client: Any

    def place(self, role_arn: str | None = None) -> AwsKmsKeyRef:
        return AwsKmsKeyRef(key_arn=self.arn, role_arn=role_arn)

    def allow(self, *principals: str, actions: tuple[str, ...] = ACTIONS) -> None:
        """Allow `actions` only to these principals and the account itself."""
        statements = [{"Effect": "Allow", "Principal": {"AWS": ROOT}, "Action": "kms:*", "Resource": "*"}]
        statements += [
            {"Effect": "Allow", "Principal": {"AWS": principal}, "Action": list(actions), "Resource": "*"}
            for principal in principals
        ]
        policy = json.dumps({"Version": "2012-10-17", "Statement": statements})
        self.client.put_key_policy(KeyId=self.arn, PolicyName="default", Policy=policy)

    def disable(self) -> None:
        self.client.disable_key(KeyId=self.arn)

    def enable(self) -> None:
        self.client.enable_key(KeyId=self.arn)

    def schedule_deletion(self) -> None:
        self.client.schedule_key_deletion(KeyId=self.arn, PendingWindowInDays=7)

    def cancel_deletion(self) -> None:
        """Cancel the deletion; the key is disabled afterwards, as in AWS."""
        self.client.cancel_key_deletion(KeyId=self.arn)


@dataclass
class MiniStack:
    """A MiniStack server; its state is in memory, and `pause` and `resume` keep it."""

    port: int
    process: subprocess.Popen[bytes]
    _clients: dict[tuple[str, str], Any] = field(default_factory=dict)

    @classmethod
    def start(cls, folder: Path) -> "MiniStack":
        with socket.create_server(("127.0.0.1", 0)) as listening:
            return cls(listening.getsockname()[1], _launch(folder, listening))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, service: str, region: str = REGION) -> Any:
        """Return AWS's client for the account's root; it is expensive to create and therefore cached."""
        if (service, region) not in self._clients:
            self._clients[service, region] = botocore.session.Session().create_client(
                service,
                endpoint_url=self.url,
                region_name=region,
                aws_access_key_id="test",
                aws_secret_access_key="test",
                config=Config(retries={"total_max_attempts": 1}),
            )
        return self._clients[service, region]

    def key(self, region: str = REGION, **more: Any) -> Key:
        client = self.client("kms", region)
        return Key(client.create_key(**more)["KeyMetadata"]["Arn"], client)

    def user(self, name: str, *allowed: str) -> User:
        """Return a new user, who may assume roles that trust it and use `allowed` actions; keys grant the rest."""
        iam = self.client("iam")
        arn = iam.create_user(UserName=name)["User"]["Arn"]
        statement = {"Effect": "Allow", "Action": ["sts:AssumeRole", *allowed], "Resource": "*"}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        iam.put_user_policy(UserName=name, PolicyName="own", PolicyDocument=policy)
        access = iam.create_access_key(UserName=name)["AccessKey"]
        return User(arn, access["AccessKeyId"], access["SecretAccessKey"])

    def role(self, name: str, trusted: str, external_id: str) -> str:
        """Return the ARN of a role that `trusted` may assume with `external_id` only."""
        policy = trust_policy(trusted, external_id)
        made = self.client("iam").create_role(RoleName=name, AssumeRolePolicyDocument=policy)
        return str(made["Role"]["Arn"])

    def trust(self, name: str, trusted: str, external_id: str) -> None:
        self.client("iam").update_assume_role_policy(RoleName=name, PolicyDocument=trust_policy(trusted, external_id))

    def pause(self) -> None:
        """Pause the server: it accepts connections and does not respond."""
        pause(self.process.pid)

    def resume(self) -> None:
        resume(self.process.pid)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def trust_policy(trusted: str, external_id: str) -> str:
    statement = {
        "Effect": "Allow",
        "Principal": {"AWS": trusted},
        "Action": "sts:AssumeRole",
        "Condition": {"StringEquals": {"sts:ExternalId": external_id}},
    }
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def _launch(folder: Path, listening: socket.socket) -> subprocess.Popen[bytes]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "MINISTACK_"))}
    # AUTH enables the verification of signatures and policies; the MQTT listener would accept other machines.
    environment |= {"AUTH": "true", "IOT_MTLS_ENABLED": "0", "MINISTACK_REGION": REGION, "PERSIST_STATE": "0"}
    command = [sys.executable, "-m", "hypercorn", "tests.kms.ministack_app:app", "--workers", "0"]
    with (folder / "ministack.log").open("ab") as log:
        process = subprocess.Popen(
            [*command, "--bind", f"fd://{listening.fileno()}"],
            pass_fds=[listening.fileno()],
            stdout=log,
            stderr=log,
            env=environment,
            cwd=Path(__file__).parents[2],
        )
    deadline = time.monotonic() + 60
    with urllib3.PoolManager(retries=False, timeout=1) as pool:
        while time.monotonic() < deadline and process.poll() is None:
            try:
                if (
                    pool.request("GET", f"http://127.0.0.1:{listening.getsockname()[1]}/_ministack/health").status
                    == 200
                ):
                    return process
            except urllib3.exceptions.HTTPError:
                time.sleep(0.05)
    process.kill()
    process.wait()
    raise RuntimeError((folder / "ministack.log").read_text(encoding="utf-8"))
