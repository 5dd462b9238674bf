"""A PKCS#11 module with its tokens: found, logged in to, and noticed when they change or go. For one thread only.

Being logged in holds for a token and the whole process, whoever's PIN it was: after one tenant's login another's would
not be looked at. So a session goes with the PIN that opened it, and another PIN closes it and has to open its own.
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

from core.errors.keys import RootKeyCredentialsRefused, RootKeyUnreachable, RootKeyUnsuitable

_LOOKED_SECONDS = 300.0
"""After which the module is initialised anew and every PIN is shown again: SoftHSM2 for one does not see by itself that
another process has changed a PIN."""
_REFUSED_SECONDS = 600.0
"""For which a refused PIN is not shown again unless a person asks: tokens lock after a few wrong ones."""
_SOONEST_LOOK = 1.0
_RAREST_LOOK = 30.0
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
    """Of a token: since when, and when the module is next made to look anew, which ends every other session."""

    wait: float
    look_at: float


class Module:
    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._library: Any = None
        self._looked = clock()
        self._sessions: dict[str, _Session] = {}
        self._refused: dict[bytes, float] = {}
        self._slots: dict[str, pkcs11.Slot] = {}
        self._absent: dict[str, _Absence] = {}
        self._lost = 0

    def session(self, label: str, pin: str, *, anew: bool = False) -> pkcs11.Session:
        """Return a session that `pin` has logged in, to the token of this label; `anew`: show even a refused PIN again.

        Raises: RootKeyUnreachable, RootKeyUnsuitable (two such tokens), RootKeyCredentialsRefused.
        """
        digest = hashlib.sha256(f"{label}\0{pin}".encode()).digest()
        refused = self._clock() < self._refused.get(digest, 0.0)
        if refused and not anew:
            raise RootKeyCredentialsRefused("the PIN is not accepted", "ask for the preflight once it is right")
        if self._clock() >= self._looked + (_SOONEST_LOOK if refused else _LOOKED_SECONDS):
            self._look_anew()
        known = self._sessions.get(label)
        if known is not None and known.pin == digest and not anew:
            return known.session
        token = self._token(label)
        self.forget(label)
        session = self._log_in(token, pin, digest)
        self._refused.pop(digest, None)
        self._sessions[label] = _Session(digest, session)
        return session

    def is_present(self, label: str) -> bool:
        """Return whether the token still answers; some modules show an empty token where there is none."""
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
        """Return whether the session has ended and another may do."""
        return isinstance(failure, _SESSION_LOST)

    def _log_in(self, token: pkcs11.Token, pin: str, digest: bytes) -> pkcs11.Session:
        if token.flags & TokenFlag.USER_PIN_LOCKED:
            raise RootKeyCredentialsRefused("the token's PIN is locked", "let its security officer set it again")
        if token.flags & TokenFlag.USER_PIN_FINAL_TRY:
            raise RootKeyCredentialsRefused(
                "one more wrong PIN would lock the token, so none is tried", "log in to the token once yourself"
            )
        try:
            return token.open(user_pin=pin)
        except _PIN_REFUSED:
            self._remember_refused(digest)
        except (exceptions.PinLocked, exceptions.UserPinNotInitialized):
            raise RootKeyCredentialsRefused("the token's PIN is locked or not set", "set it again") from None
        except exceptions.PKCS11Error:
            self._lost += 1
            raise RootKeyUnreachable(f"the token {token.label} cannot be logged in to") from None
        raise RootKeyCredentialsRefused("the PIN is not accepted", "give the right one")

    def _remember_refused(self, digest: bytes) -> None:
        now = self._clock()
        self._refused = {one: until for one, until in self._refused.items() if until > now}
        self._refused[digest] = now + _REFUSED_SECONDS
        self._lost += 1  # python-pkcs11 drops the session whose login failed without closing it
        if self._lost >= _LOST_SESSIONS:
            self._look_anew()

    def _token(self, label: str) -> pkcs11.Token:
        found = self._tokens(label)
        if not found and self._may_look_anew(label):
            self._look_anew()
            found = self._tokens(label)
        if not found:
            raise RootKeyUnreachable(f"there is no token {label}", "check that it is connected, and its label")
        if len(found) > 1:
            raise RootKeyUnsuitable(f"there are {len(found)} tokens {label}", "give one of them another label")
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

    def _may_look_anew(self, label: str) -> bool:
        """Return whether it is time: at once for a token never seen, later and later for one that is gone."""
        now = self._clock()
        absence = self._absent.get(label)
        if absence is None:
            first = _SOONEST_LOOK if label in self._slots else 0.0
            absence = self._absent[label] = _Absence(_SOONEST_LOOK, now + first)
        if now < absence.look_at or now < self._looked + _SOONEST_LOOK:
            return False
        absence.look_at, absence.wait = now + absence.wait, min(2 * absence.wait, _RAREST_LOOK)
        return True

    def _loaded_library(self) -> Any:
        if self._library is None:
            try:
                with self._alone():
                    self._library = pkcs11.lib(str(self._path))
            except (exceptions.PKCS11Error, OSError):
                raise RootKeyUnreachable("the PKCS#11 module cannot be loaded", "tell the operator") from None
            self._looked = self._clock()
        return self._library

    def _look_anew(self) -> None:
        """Initialise the module again: it finds tokens that are new, and everybody's login has ended."""
        self._sessions.clear()
        self._slots.clear()
        self._lost = 0
        self._looked = self._clock()
        library = self._loaded_library()
        try:
            with self._alone():
                library.reinitialize()
        except (exceptions.PKCS11Error, OSError):
            self._library = None

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let one process at a time initialise: SoftHSM2 2.6.1 misses tokens when several do in the same moment."""
        with self._path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
