"""Streamlit's sign-on cookie, read where Streamlit does not: before a document, a download or a socket is answered.

The one place that knows the cookie's form, which is Streamlit's own and signed, not encrypted. `tests/dashboard` holds
it to what the running server writes.
"""

import json
from collections.abc import Mapping
from typing import Any

from streamlit.auth_util import get_cookie_with_chunks
from streamlit.web.server.starlette.starlette_app_utils import decode_signed_value

USER = "_streamlit_user"
OURS = (USER, "_streamlit_user_tokens")


class InvalidCookie(Exception):
    """A cookie was presented that this server did not sign, or that was altered since."""


def read_claims(cookies: Mapping[str, str], secret: str, origin: str) -> dict[str, Any] | None:
    """Return the claims of the ID token in the cookie, None when nobody is signed on.

    Raises:
        Forged: there is a cookie, and it is not one of ours for `origin`.
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
