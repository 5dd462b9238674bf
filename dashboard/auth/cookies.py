"""Reads Streamlit's sign-on cookie before a document, a download or a socket is served.

The only module that knows the format of the cookie, which Streamlit signs but does not encrypt. `tests/dashboard`
compares it with what the running server writes.
"""

import json
from collections.abc import Mapping
from typing import Any

from streamlit.auth_util import get_cookie_with_chunks
from streamlit.web.server.starlette.starlette_app_utils import decode_signed_value

USER = "_streamlit_user"
OURS = (USER, "_streamlit_user_tokens")


class InvalidCookie(Exception):
    """The signature of a cookie is not from this server, or the cookie was altered."""


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
