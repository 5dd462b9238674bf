"""A PKCS #11 module with its tokens: discovery, login, and detection of changes and removals. For one thread only.

A login is a state of the token and the whole process, regardless of the PIN: after one tenant's login the token would
not verify another tenant's PIN. So each session belongs to its PIN; another PIN closes it and logs in again.
"""

import fcntl
import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pkcs11
from pkcs11 import exceptions
from pkcs11.constants import TokenFlag

from core.errors.keys import RootKeyCredentialsRefused, RootKeyThrottled, RootKeyUnreachable, RootKeyUnsuitable

_REINITIALIZE_SECONDS = 300.0
"""Interval after which the module is initialised again and each PIN is verified again. SoftHSM2, for example, does not
detect that another process has changed a PIN."""
_REFUSED_SECONDS = 600.0
"""How long a rejected PIN is not used again without a preflight, because tokens lock after a few wrong PINs."""
_MAX_REJECTED = 3
"""PINs of preflights that a token may reject within `_REFUSED_SECONDS`: many tokens lock after ten wrong PINs."""
_MIN_RETRY_SECONDS = 1.0
_MAX_RETRY_SECONDS = 30.0
_LOST_SESSIONS = 16

_PIN_REFUSED = (exceptions.PinIncorrect, exceptions.PinInvalid, exceptions.PinLenRange, exceptions.PinExpired)
_SESSION_LOST = (
    exceptions.SessionHandleInvalid,
    exceptions.SessionClosed,
    exceptions.UserNotLoggedIn,
    exceptions.DeviceRemoved,
    exceptions.TokenNotPresent,
    exceptions.TokenNotRecognised,
    exceptions.SlotIDInvalid,
)


@dataclass
class _Session:
    pin: bytes
    session: pkcs11.Session


@dataclass
class _Absence:
    """The backoff for a missing token: the next reinitialisation of the module, which ends every other session."""

    wait: float
    retry_at: float


class Module:
    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._library: Any = None
        self._initialized = clock()
        self._sessions: dict[str, _Session] = {}
        self._refused: dict[bytes, float] = {}
        self._rejections: dict[str, list[float]] = {}
        self._slots: dict[str, pkcs11.Slot] = {}
        self._absent: dict[str, _Absence] = {}
        self._lost = 0

    def session(self, label: str, pin: str, *, verify_pin: bool = False) -> pkcs11.Session:
        """Return a session with the token of this label, logged in with `pin`.

        `verify_pin`, for a preflight, logs in again, also with a rejected PIN.

        Raises: RootKeyUnreachable, RootKeyUnsuitable (two such tokens), RootKeyCredentialsRefused, RootKeyThrottled
            (too many preflights with a wrong PIN).
        """
        digest = hashlib.sha256(f"{label}\0{pin}".encode()).digest()
        refused = self._clock() < self._refused.get(digest, 0.0)
        outdated = self._clock() >= self._initialized + (_MIN_RETRY_SECONDS if refused else _REINITIALIZE_SECONDS)
        if refused and not (verify_pin and outdated):  # a module need not detect a corrected PIN before
            raise RootKeyCredentialsRefused("the PIN is not accepted", "correct it and run the preflight")
        if verify_pin:
            self._limit_preflights(label)
        if outdated:
            self._reinitialize()
        known = self._sessions.get(label)
        if known is not None and known.pin == digest and not verify_pin:
            return known.session
        token = self._token(label)
        self.forget(label)
        try:
            session = self._log_in(token, pin, digest)
        except RootKeyCredentialsRefused:
            if verify_pin:
                self._rejections.setdefault(label, []).append(self._clock())
            raise
        self._refused.pop(digest, None)
        self._sessions[label] = _Session(digest, session)
        return session

    def is_present(self, label: str) -> bool:
        """Return whether the token still responds; some modules report an empty token for an empty slot."""
        slot = self._slots.get(label)
        try:
            return slot is not None and slot.get_token().label == label
        except exceptions.PKCS11Error:
            return False

    def forget(self, label: str) -> None:
        """Close the session of a token, which logs out of it."""
        known = self._sessions.pop(label, None)
        if known is not None:
            try:
                known.session.close()
            except exceptions.PKCS11Error:
                self._lost += 1

    @staticmethod
    def is_lost(failure: exceptions.PKCS11Error) -> bool:
        """Return whether the session has ended, so that a new session may succeed."""
        return isinstance(failure, _SESSION_LOST)

    def _log_in(self, token: pkcs11.Token, pin: str, digest: bytes) -> pkcs11.Session:
        if token.flags & TokenFlag.USER_PIN_LOCKED:
            raise RootKeyCredentialsRefused("the token's PIN is locked", "have the security officer reset it")
        if token.flags & TokenFlag.USER_PIN_FINAL_TRY:
            # The holder did not withdraw a PIN that the token never rejected, so that this failure is temporary.
            kind = RootKeyCredentialsRefused if digest in self._refused else RootKeyUnreachable
            raise kind(
                "one more wrong PIN would lock the token, so no login is attempted", "log in to the token once yourself"
            )
        try:
            return token.open(user_pin=pin)
        except _PIN_REFUSED:
            self._remember_refused(digest)
        except (exceptions.PinLocked, exceptions.UserPinNotInitialized):
            raise RootKeyCredentialsRefused("the token's PIN is locked or not set", "set the PIN") from None
        except exceptions.PKCS11Error:
            self._lost += 1
            raise RootKeyUnreachable(f"the login to token {token.label} failed") from None
        raise RootKeyCredentialsRefused("the PIN is not accepted", "provide the correct PIN")

    def _limit_preflights(self, label: str) -> None:
        since = self._clock() - _REFUSED_SECONDS
        recent = self._rejections[label] = [at for at in self._rejections.get(label, ()) if at > since]
        if len(recent) >= _MAX_REJECTED:
            raise RootKeyThrottled(
                f"the token rejected {_MAX_REJECTED} preflights within {_REFUSED_SECONDS / 60:g} minutes",
                "wait ten minutes, then run the preflight with the correct PIN: wrong PINs lock a token",
            )

    def _remember_refused(self, digest: bytes) -> None:
        now = self._clock()
        self._refused = {one: until for one, until in self._refused.items() if until > now}
        self._refused[digest] = now + _REFUSED_SECONDS
        self._lost += 1  # python-pkcs11 drops the session whose login failed without closing it
        if self._lost >= _LOST_SESSIONS:
            self._reinitialize()

    def _token(self, label: str) -> pkcs11.Token:
        found = self._tokens(label)
        if not found and self._may_reinitialize(label):
            self._reinitialize()
            found = self._tokens(label)
        if not found:
            raise RootKeyUnreachable(f"no token {label} found", "check its connection and its label")
        if len(found) > 1:
            raise RootKeyUnsuitable(f"{len(found)} tokens {label} found", "change the label of one of them")
        self._absent.pop(label, None)
        self._slots[label] = found[0].slot
        return found[0]

    def _tokens(self, label: str) -> list[pkcs11.Token]:
        """Return the tokens of this label; the slots of others may fail."""
        found = []
        try:
            for slot in self._loaded_library().get_slots(token_present=True):
                try:
                    token = slot.get_token()
                except exceptions.PKCS11Error:
                    continue
                if token.label == label:
                    found.append(token)
        except exceptions.PKCS11Error:
            return []
        return found

    def _may_reinitialize(self, label: str) -> bool:
        """Return whether a retry is due: at once for a new token, with exponential backoff for a removed one."""
        now = self._clock()
        absence = self._absent.get(label)
        if absence is None:
            first = _MIN_RETRY_SECONDS if label in self._slots else 0.0
            absence = self._absent[label] = _Absence(_MIN_RETRY_SECONDS, now + first)
        if now < absence.retry_at or now < self._initialized + _MIN_RETRY_SECONDS:
            return False
        absence.retry_at, absence.wait = now + absence.wait, min(2 * absence.wait, _MAX_RETRY_SECONDS)
        return True

    def _loaded_library(self) -> Any:
        if self._library is None:
            try:
                with self._exclusive():
                    self._library = pkcs11.lib(str(self._path))
            except (exceptions.PKCS11Error, OSError):
                raise RootKeyUnreachable("the PKCS #11 module cannot be loaded", "contact the operator") from None
            self._initialized = self._clock()
        return self._library

    def _reinitialize(self) -> None:
        """Initialise the module again: it detects new tokens and ends all logins."""
        self._sessions.clear()
        self._slots.clear()
        self._lost = 0
        self._initialized = self._clock()
        library = self._loaded_library()
        try:
            with self._exclusive():
                library.reinitialize()
        except (exceptions.PKCS11Error, OSError):
            self._library = None

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Serialise the initialisation between processes: SoftHSM2 2.6.1 misses tokens in concurrent ones."""
        with self._path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
