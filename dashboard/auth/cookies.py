"""Reads Streamlit's sign-on cookie before a document, a download or a socket is served.

The only module that knows the format of the cookie, which Streamlit signs but does not encrypt. `tests/dashboard`
compares it with what the running server writes.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from streamlit.auth_util import get_cookie_with_chunks
from streamlit.web.server.starlette.starlette_app_utils import create_signed_value, decode_signed_value

USER = "_streamlit_user"
OURS = (USER, "_streamlit_user_tokens")


class InvalidCookie(Exception):
    """The signature of a cookie is not from this server, or the cookie was altered."""


def sign_again(cookies: Mapping[str, str], secrets: Sequence[str]) -> dict[str, str]:
    """Return new values of the sign-on cookies that a former secret signed, by name; signed with the present one.

    Streamlit knows one secret. The browser keeps its cookie, whose age therefore still counts from the sign-on.
    """
    present, *former = secrets
    changed = {}
    for name, value in cookies.items():
        for secret in former if name.startswith(USER) else ():
            text = decode_signed_value(secret, name, value.encode("latin-1", "replace"))
            if text is not None:
                changed[name] = create_signed_value(present, name, text).decode("ascii")
    return changed


def read_claims(cookies: Mapping[str, str], secret: str, origin: str) -> dict[str, Any] | None:
    """Return the claims of the ID token in the cookie, None without a signed-in user.

    Raises:
        InvalidCookie: the cookie was not signed by this server for `origin`.
    """
    if USER not in cookies:
        return None

    def unsigned(name: str) -> bytes | None:
        value = cookies.get(name)
        return None if value is None else decode_signed_value(secret, name, value.encode("latin-1", "replace"))

    signed = get_cookie_with_chunks(unsigned, USER)
    if signed is None:
        raise InvalidCookie
    try:
        claims = json.loads(signed)
    except ValueError:
        raise InvalidCookie from None
    if not isinstance(claims, dict) or claims.get("origin") != origin:
        raise InvalidCookie
    return claims if claims.get("is_logged_in") is True else None
