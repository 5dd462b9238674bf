"""The contract of every implementation of `kms.interfaces.RootKey`: results and errors.

A subclass provides the fixture `holder` with a dedicated server, because the tests stop it and revoke permissions.
"""

import base64
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol

import pytest

from core import names as ids
from core.errors.keys import (
    CustomerKeyError,
    RootKeyDenied,
    RootKeyDisabled,
    RootKeyMissing,
    RootKeyUnreachable,
    WrongContext,
)
from core.keys.encryption_context import EncryptionContext, Purpose
from kms.interfaces import RootKey
from openkcm.errors import OpenKcmError

TENANT = "acme-corp-12345"
CONTEXT = EncryptionContext(TENANT, ids.l2_key(TENANT), "orders", Purpose.SERVICE_KEY, "1")
INNER = b"vault:v1:the-inner-layer-of-a-service-key"


class Holder(Protocol):
    """A root key with its holder, which can disable it. The end of each block undoes its change.

    `another` is a second key of the same holder, `missing` a key that does not exist. `refusal` is the error class of a
    denial, which differs for a server with credentials and no permissions; `absence` is that of a missing key.
    """

    root_key: RootKey

    @property
    def another(self) -> RootKey: ...

    @property
    def missing(self) -> RootKey: ...

    @contextmanager
    def disabled(self) -> Iterator[None]: ...

    @contextmanager
    def denied(self) -> Iterator[None]: ...

    @contextmanager
    def down(self) -> Iterator[None]: ...


class RootKeyContract:
    def test_unwrap_returns_the_wrapped_value(self, holder: Holder) -> None:
        one, other = (holder.root_key.wrap(CONTEXT, INNER) for _ in range(2))
        assert one != other
        assert INNER not in one
        assert holder.root_key.unwrap(CONTEXT, one) == holder.root_key.unwrap(CONTEXT, other) == INNER

    @pytest.mark.parametrize("inner", [b"\x00", bytes(range(256)) * 16], ids=["one byte", "4 KiB"])
    def test_wrap_accepts_any_bytes_up_to_4_kib(self, holder: Holder, inner: bytes) -> None:
        assert holder.root_key.unwrap(CONTEXT, holder.root_key.wrap(CONTEXT, inner)) == inner

    @pytest.mark.parametrize(
        "moved",
        [
            {"tenant_id": "other-corp"},
            {"l2_key": "L2-other-corp-primary"},
            {"service": "billing"},
            {"purpose": Purpose.DATA_KEY},
            {"object_id": "2"},
            {"object_id": ""},
        ],
        ids=str,
    )
    def test_unwrap_rejects_another_context(self, holder: Holder, moved: dict[str, str]) -> None:
        wrapped = holder.root_key.wrap(CONTEXT, INNER)
        with pytest.raises(WrongContext):
            holder.root_key.unwrap(CONTEXT._replace(**moved), wrapped)
        assert holder.root_key.unwrap(CONTEXT, wrapped) == INNER

    @pytest.mark.parametrize(
        "alter",
        [
            lambda wrapped: wrapped[:-6] + bytes([wrapped[-6] ^ 1]) + wrapped[-5:],
            lambda wrapped: wrapped[:-8],
            lambda wrapped: wrapped + wrapped[-4:],
            lambda _: b"",
            lambda _: b"\xff\x00 not even text",
            lambda _: b"x" * 4096,
        ],
        ids=["flipped", "cut", "longer", "empty", "bytes", "text"],
    )
    def test_unwrap_rejects_an_altered_ciphertext(self, holder: Holder, alter: Callable[[bytes], bytes]) -> None:
        wrapped = holder.root_key.wrap(CONTEXT, INNER)
        with pytest.raises(WrongContext):
            holder.root_key.unwrap(CONTEXT, alter(wrapped))

    def test_unwrap_rejects_a_ciphertext_of_another_key(self, holder: Holder) -> None:
        with pytest.raises(WrongContext):
            holder.root_key.unwrap(CONTEXT, holder.another.wrap(CONTEXT, INNER))

    def test_use_of_a_missing_key_does_not_create_it(self, holder: Holder) -> None:
        wrapped = holder.root_key.wrap(CONTEXT, INNER)
        absence = getattr(holder, "absence", (RootKeyMissing,))
        for _ in range(2):
            _both_fail_as(absence, holder.missing, wrapped)
        (problem,) = holder.missing.validate()
        assert type(problem) in absence

    def test_disabled_key_is_rejected_until_it_is_enabled(self, holder: Holder) -> None:
        wrapped = holder.root_key.wrap(CONTEXT, INNER)
        with holder.disabled():
            _both_fail_as(RootKeyDisabled, holder.root_key, wrapped)
            assert [type(problem) for problem in holder.root_key.validate()] == [RootKeyDisabled]
        assert holder.root_key.unwrap(CONTEXT, wrapped) == INNER

    def test_revoked_permission_is_distinguished_from_a_disabled_key(self, holder: Holder) -> None:
        wrapped = holder.root_key.wrap(CONTEXT, INNER)
        with holder.denied():
            refusal = getattr(holder, "refusal", RootKeyDenied)
            _both_fail_as(refusal, holder.root_key, wrapped)
            assert [type(problem) for problem in holder.root_key.validate()] == [refusal]
        assert holder.root_key.unwrap(CONTEXT, wrapped) == INNER

    def test_server_that_is_down_is_unreachable_until_it_is_restarted(self, holder: Holder) -> None:
        wrapped = holder.root_key.wrap(CONTEXT, INNER)
        with holder.down():
            _both_fail_as(RootKeyUnreachable, holder.root_key, wrapped)
            assert [type(problem) for problem in holder.root_key.validate()] == [RootKeyUnreachable]
        assert holder.root_key.unwrap(CONTEXT, wrapped) == INNER

    def test_preflight_of_a_working_key_reports_no_problem(self, holder: Holder) -> None:
        assert list(holder.root_key.validate()) == []
        assert holder.root_key.version_of(holder.root_key.wrap(CONTEXT, INNER)) == getattr(holder, "version", None)

    def test_many_threads_may_use_a_root_key_at_once(self, holder: Holder) -> None:
        def round_trip(number: int) -> bool:
            place, inner = CONTEXT._replace(object_id=str(number)), INNER + str(number).encode()
            return holder.root_key.unwrap(place, holder.root_key.wrap(place, inner)) == inner

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(round_trip, range(40)))


def _both_fail_as(
    expected: type[CustomerKeyError] | tuple[type[CustomerKeyError], ...], root_key: RootKey, wrapped: bytes
) -> None:
    for use in (lambda: root_key.wrap(CONTEXT, INNER), lambda: root_key.unwrap(CONTEXT, wrapped)):
        with pytest.raises(OpenKcmError) as failed:
            use()
        assert type(failed.value) in (expected if isinstance(expected, tuple) else (expected,))
        said = " ".join(_texts(failed.value))
        for secret in (INNER, base64.b64encode(INNER), wrapped):
            assert secret.decode("latin-1") not in said


def _texts(error: BaseException | None) -> Iterator[str]:
    while error is not None:
        yield from (str(error), repr(error))
        error = error.__cause__ or error.__context__
