"""The cost of an unused root key, and the sharing of sessions between threads."""

import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydantic import SecretStr

from core.errors.keys import RootKeyRefused, RootKeyTimeout
from core.keys.root_keys import (
    AwsKmsKeyRef,
    Credentials,
    OpenBaoKeyRef,
    Pkcs11KeyRef,
    Place,
    PlatformKeyRef,
    RootKeyMode,
)
from kms.egress_policy import EgressPolicy
from kms.network.session_cache import Sessions
from kms.providers import PROVIDERS, RootKeyProviders

KEYS = Credentials(access_key_id=SecretStr("AKIA0000000000000000"), secret_access_key=SecretStr("secret"))


def places(number: int) -> list[tuple[Place, Credentials]]:
    arn = f"arn:aws:kms:eu-west-1:{number:012}:key/{number}"
    return [
        (AwsKmsKeyRef(key_arn=arn), KEYS),
        (AwsKmsKeyRef(key_arn=arn, role_arn=f"arn:aws:iam::{number:012}:role/openkcm"), Credentials()),
        (Pkcs11KeyRef(token=f"token-{number}", key="root"), Credentials(pin=SecretStr("1234"))),
        (OpenBaoKeyRef(address=f"https://vault-{number}.example.com", key="root"), Credentials(token=SecretStr("s.t"))),
    ]


def test_every_customer_mode_has_a_provider_and_its_credentials() -> None:
    assert set(PROVIDERS) == set(RootKeyMode) - {RootKeyMode.PLATFORM}
    for place, credentials in (
        (PlatformKeyRef(), Credentials()),
        (places(1)[0][0], Credentials(token=SecretStr("s.t"))),
    ):
        with pytest.raises(RootKeyRefused):
            RootKeyProviders(EgressPolicy()).open("acme-corp", place, credentials)


@pytest.mark.parametrize("kind", range(4), ids=["access keys", "role", "pkcs11", "openbao"])
def test_root_key_that_is_not_used_costs_little_memory_and_no_connection(kind: int) -> None:
    tokens = {f"token-{number}": f"tenant-{number}" for number in range(300)}
    root_keys = RootKeyProviders(EgressPolicy(pkcs11_module=Path("/nonexistent.so"), pkcs11_tokens=tokens))
    wanted = [places(number)[kind] for number in range(300)]
    root_keys.open("tenant-0", *wanted[0])
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
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

    def test_rejected_session_is_dropped_and_a_failed_login_is_retried(self) -> None:
        sessions: Sessions[str] = Sessions()

        def fail() -> tuple[str, float]:
            raise RuntimeError

        with pytest.raises(RuntimeError):
            sessions.current(b"key", fail)
        first = sessions.current(b"key", lambda: ("first", 100.0))
        assert first == "first"
        sessions.forget(b"key", first)
        assert sessions.current(b"key", lambda: ("second", 100.0)) == "second"
        sessions.forget(b"key", first)
        assert sessions.current(b"key", lambda: ("third", 100.0)) == "second"

    @pytest.mark.integration  # it sleeps
    def test_caller_that_waited_for_a_failed_login_does_not_wait_again(self) -> None:
        sessions: Sessions[str] = Sessions()
        begun, end = threading.Event(), threading.Event()
        attempts: list[int] = []
        arrived: list[int] = []

        def fail() -> tuple[str, float]:
            attempts.append(1)
            begun.set()
            end.wait(60)
            raise RootKeyTimeout

        def use(number: int) -> str:
            arrived.append(number)
            try:
                return sessions.current(b"key", fail)
            except RootKeyTimeout:
                return "slow"

        with ThreadPoolExecutor(8) as pool:
            first = pool.submit(use, 0)
            begun.wait(60)
            others = [pool.submit(use, number) for number in range(7)]
            while len(arrived) < 8:
                time.sleep(0.01)
            time.sleep(0.05)
            end.set()
            assert {one.result() for one in (first, *others)} == {"slow"}
        assert len(attempts) < 3
