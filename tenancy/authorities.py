"""A tenant's certificate authorities: which one issues, which one is still believed, which one is over.

Of those that count there are at most two: the current one, and a former one whose leaves have not all expired. A roll
begins with a prepared one, which nothing believes until it was seen to issue what verifies.
"""

from enum import StrEnum


class AuthorityState(StrEnum):
    PREPARED = "prepared"
    """Signed and on record; nothing is issued by it and nobody believes it."""
    CURRENT = "current"
    """Issues every new leaf; there is exactly one."""
    FORMER = "former"
    """Issues nothing any more; its leaves open until they expire."""
    ENDED = "ended"
    """Believed no more, whatever it signed."""


BELIEVED = frozenset({AuthorityState.CURRENT, AuthorityState.FORMER})
"""The states whose leaves open something, if they are on record and the route names their issuer."""
