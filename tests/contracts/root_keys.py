"""What every implementation of `kms.interfaces.RootKey` does, and how it fails.

A subclass gives the fixture `holder`, whose server is this class's own: it is stopped and its permissions are taken.
"""

import base64
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
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
    """A root key together with whoever holds it and can take it away. Each switch is undone when its block ends.

    `another` is a second key of the same holder, `missing` one that does not exist. A holder whose refusals have a
    class of their own, because its server knows credentials but no rights, says so as `refusal`; one whose missing keys
    have, as `absence`.
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
    def test_what_was_wrapped_opens(self, holder: Holder) -> None:
        one, other = (holder.root_key.wrap(CONTEXT, INNER) for _ in range(2))
        assert one != other
        assert INNER not in one
        assert holder.root_key.unwrap(CONTEXT, one) == holder.root_key.unwrap(CONTEXT, other) == INNER

    @pytest.mark.parametrize("inner", [b"\x00", bytes(range(256)) * 16], ids=["one byte", "4 KiB"])
    def test_any_bytes_up_to_4_kib_are_taken(self, holder: Holder, inner: bytes) -> None:
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
    def test_it_does_not_open_in_another_context(self, holder: Holder, moved: dict[str, str]) -> None:
        wrapped = holder.root_key.wrap(CONTEXT, INNER)
        with pytest.raises(WrongContext):
            holder.root_key.unwrap(replace(CONTEXT, **moved), wrapped)
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
    def test_an_altered_one_does_not_open(self, holder: Holder, alter: Callable[[bytes], bytes]) -> None:
        wrapped = holder.root_key.wrap(CONTEXT, INNER)
        with pytest.raises(WrongContext):
            holder.root_key.unwrap(CONTEXT, alter(wrapped))

    def test_what_another_key_wrapped_does_not_open(self, holder: Holder) -> None:
        with pytest.raises(WrongContext):
            holder.root_key.unwrap(CONTEXT, holder.another.wrap(CONTEXT, INNER))

    def test_a_key_that_does_not_exist_is_not_made_by_using_it(self, holder: Holder) -> None:
        wrapped = holder.root_key.wrap(CONTEXT, INNER)
        absence = getattr(holder, "absence", (RootKeyMissing,))
        for _ in range(2):
            _both_fail_as(absence, holder.missing, wrapped)
        (problem,) = holder.missing.validate()
        assert type(problem) in absence

    def test_a_disabled_key_does_nothing_until_it_is_enabled(self, holder: Holder) -> None:
        wrapped = holder.root_key.wrap(CONTEXT, INNER)
        with holder.disabled():
            _both_fail_as(RootKeyDisabled, holder.root_key, wrapped)
            assert [type(problem) for problem in holder.root_key.validate()] == [RootKeyDisabled]
        assert holder.root_key.unwrap(CONTEXT, wrapped) == INNER

    def test_a_permission_that_was_taken_away_is_told_from_a_disabled_key(self, holder: Holder) -> None:
        wrapped = holder.root_key.wrap(CONTEXT, INNER)
        with holder.denied():
            refusal = getattr(holder, "refusal", RootKeyDenied)
            _both_fail_as(refusal, holder.root_key, wrapped)
            assert [type(problem) for problem in holder.root_key.validate()] == [refusal]
        assert holder.root_key.unwrap(CONTEXT, wrapped) == INNER

    def test_a_server_that_is_down_is_unreachable_until_it_is_back(self, holder: Holder) -> None:
        wrapped = holder.root_key.wrap(CONTEXT, INNER)
        with holder.down():
            _both_fail_as(RootKeyUnreachable, holder.root_key, wrapped)
            assert [type(problem) for problem in holder.root_key.validate()] == [RootKeyUnreachable]
        assert holder.root_key.unwrap(CONTEXT, wrapped) == INNER

    def test_a_working_key_has_nothing_wrong_with_it(self, holder: Holder) -> None:
        assert list(holder.root_key.validate()) == []
        assert holder.root_key.version_of(holder.root_key.wrap(CONTEXT, INNER)) == getattr(holder, "version", None)

    def test_many_threads_may_use_it_at_once(self, holder: Holder) -> None:
        def round_trip(number: int) -> bool:
            place, inner = replace(CONTEXT, object_id=str(number)), INNER + str(number).encode()
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
