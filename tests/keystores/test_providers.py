"""What an opened root key costs, and in which processes and threads it can be used."""

import subprocess
import sys
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydantic import SecretStr

from keystores.providers import PROVIDERS, CustomerRootKeys, Reach
from keystores.sessions import Sessions
from tenancy.root_key_errors import RootKeyRefused, RootKeySlow
from tenancy.root_keys import (
    AwsKmsPlace,
    Credentials,
    OpenBaoPlace,
    Pkcs11Place,
    Place,
    PlatformPlace,
    RootKeyMode,
)
from tests.keystores.ministack import MiniStack
from tests.keystores.softhsm import SoftHsm, module

KEYS = Credentials(access_key_id=SecretStr("AKIA0000000000000000"), secret_access_key=SecretStr("secret"))


def places(number: int) -> list[tuple[Place, Credentials]]:
    arn = f"arn:aws:kms:eu-west-1:{number:012}:key/{number}"
    return [
        (AwsKmsPlace(key_arn=arn), KEYS),
        (AwsKmsPlace(key_arn=arn, role_arn=f"arn:aws:iam::{number:012}:role/openkcm"), Credentials()),
        (Pkcs11Place(token=f"token-{number}", key="root"), Credentials(pin=SecretStr("1234"))),
        (OpenBaoPlace(address=f"https://vault-{number}.example.com", key="root"), Credentials(token=SecretStr("s.t"))),
    ]


def test_every_mode_but_the_platforms_has_its_provider() -> None:
    assert set(PROVIDERS) == set(RootKeyMode) - {RootKeyMode.PLATFORM}
    with pytest.raises(RootKeyRefused):
        CustomerRootKeys(Reach()).open("acme-corp", PlatformPlace(), Credentials())


def test_credentials_that_do_not_fit_the_place_are_refused() -> None:
    with pytest.raises(RootKeyRefused):
        CustomerRootKeys(Reach()).open("acme-corp", places(1)[0][0], Credentials(token=SecretStr("s.t")))


@pytest.mark.parametrize("kind", range(4), ids=["access keys", "role", "pkcs11", "openbao"])
def test_five_thousand_cost_little_and_open_nothing(kind: int) -> None:
    root_keys = CustomerRootKeys(Reach(pkcs11_module=Path("/nonexistent.so")))
    wanted = [places(number)[kind] for number in range(5000)]
    root_keys.open("warm-up", *wanted[0])
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    began = time.process_time()
    opened = [root_keys.open(f"tenant-{number}", *one) for number, one in enumerate(wanted)]
    assert (time.process_time() - began) / len(opened) < 0.001
    tracemalloc.start()
    opened = [root_keys.open(f"tenant-{number}", *one) for number, one in enumerate(wanted)]
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert kept / len(opened) < 5_000
    assert len(list(Path("/proc/self/fd").iterdir())) <= descriptors


class TestSessions:
    def test_one_login_serves_all_threads_until_shortly_before_its_end(self) -> None:
        now, logins = [0.0], []
        sessions: Sessions[str] = Sessions(lambda: now[0])

        def log_in() -> tuple[str, float]:
            logins.append(now[0])
            return f"session {len(logins)}", 100.0

        with ThreadPoolExecutor(8) as pool:
            found = set(pool.map(lambda _: sessions.current(b"key", log_in), range(100)))
        assert found == {"session 1"}
        now[0] = 79.0
        assert sessions.current(b"key", log_in) == "session 1"
        now[0] = 81.0
        assert sessions.current(b"key", log_in) == "session 2"
        assert sessions.current(b"other", log_in) == "session 3"

    def test_a_refused_one_is_dropped_and_its_successor_kept(self) -> None:
        sessions: Sessions[str] = Sessions()
        first = sessions.current(b"key", lambda: ("first", 100.0))
        sessions.forget(b"key", first)
        assert sessions.current(b"key", lambda: ("second", 100.0)) == "second"
        sessions.forget(b"key", first)
        assert sessions.current(b"key", lambda: ("third", 100.0)) == "second"

    def test_whoever_waits_for_a_login_that_fails_does_not_wait_again(self) -> None:
        sessions: Sessions[str] = Sessions()
        begun, end = threading.Event(), threading.Event()
        attempts: list[int] = []
        arrived: list[int] = []

        def fail() -> tuple[str, float]:
            attempts.append(1)
            begun.set()
            end.wait(10)
            raise RootKeySlow

        def use(number: int) -> str:
            arrived.append(number)
            try:
                return sessions.current(b"key", fail)
            except RootKeySlow:
                return "slow"

        with ThreadPoolExecutor(8) as pool:
            first = pool.submit(use, 0)
            begun.wait(10)
            others = [pool.submit(use, number) for number in range(7)]
            while len(arrived) < 8:
                time.sleep(0.01)
            time.sleep(0.05)
            end.set()
            assert {one.result() for one in (first, *others)} == {"slow"}
        assert len(attempts) < 3

    def test_a_login_that_fails_is_tried_again_by_the_next(self) -> None:
        sessions: Sessions[str] = Sessions()

        def fail() -> tuple[str, float]:
            raise RuntimeError

        with pytest.raises(RuntimeError):
            sessions.current(b"key", fail)
        assert sessions.current(b"key", lambda: ("first", 100.0)) == "first"


_FORKED = """
import os, sys
from pathlib import Path
from pydantic import SecretStr
from keystores.providers import CustomerRootKeys, Reach
from tenancy.root_keys import AwsKmsPlace, Credentials, Pkcs11Place
from tests.contracts.root_keys import CONTEXT, INNER
module, endpoint, arn, key_id, secret = sys.argv[1:]
root_keys = CustomerRootKeys(Reach(aws_endpoint=endpoint, pkcs11_module=Path(module)))
token = Pkcs11Place(token="forked", key="openkcm-root")
keys = Credentials(access_key_id=SecretStr(key_id), secret_access_key=SecretStr(secret))
opened = [
    root_keys.open("acme-corp", token, Credentials(pin=SecretStr("1234-user"))),
    root_keys.open("acme-corp", AwsKmsPlace(key_arn=arn), keys),
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


def test_a_process_may_fork_between_opening_and_using(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOFTHSM2_CONF", "")
    hsm = SoftHsm.create(tmp_path)
    hsm.make_token("forked")
    hsm.make_key("forked")
    aws = MiniStack.start(tmp_path)
    try:
        user, key = aws.user("forked"), aws.key()
        key.allow(user.arn)
        arguments = [str(module()), aws.url, key.arn, user.access_key_id, user.secret_access_key]
        done = subprocess.run(
            [sys.executable, "-c", _FORKED, *arguments], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
    finally:
        aws.kill()
