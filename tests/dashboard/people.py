"""Sessions for the dashboard's tests: claims, an authorizer on a real database, and cookies signed as by Streamlit."""

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from streamlit.web.server.starlette.starlette_app_utils import create_signed_value

from dashboard.auth import cookies
from dashboard.auth.authorization import SessionAuthorizer
from dashboard.auth.claims import ClaimNames
from database.connection.database import Database

NAMES = ClaimNames("openkcm_tenant", "openkcm_roles")
SECRET = "a cookie secret of more than thirty-two letters"
ORIGIN = "http://127.0.0.1:18501"
ACME, BETA = "acme-corp-12345", "beta-corp-67890"


@dataclass
class Clock:
    """A clock that a test moves."""

    at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def __call__(self) -> datetime:
        return self.at

    def advance(self, **by: float) -> None:
        self.at += timedelta(**by)


def claims_of(clock: Clock, **changed: Any) -> dict[str, Any]:
    """Return complete claims of ACME's administrator, issued now; None removes one."""
    whole = {
        "iss": "https://sso.example",
        "sub": "ada",
        "name": "Ada",
        "iat": int(clock().timestamp()),
        "exp": int(clock().timestamp()) + 3600,
        "nonce": "n-1",
        NAMES.tenant: ACME,
        NAMES.roles: ["administrator"],
    }
    return {name: value for name, value in (whole | changed).items() if value is not None}


def cookie_of(claims: dict[str, Any], secret: str = SECRET, origin: str = ORIGIN) -> dict[str, str]:
    """Return the cookie that Streamlit would set."""
    text = json.dumps(claims | {"origin": origin, "is_logged_in": True, "provider": "default"})
    return {cookies.USER: create_signed_value(secret, cookies.USER, text).decode()}


def a_guard(database: Database, clock: Clock) -> SessionAuthorizer:
    return SessionAuthorizer(database, NAMES, timedelta(minutes=30), clock)
