"""What can be wrong with a version of a key that somebody names; part of the vocabulary of `errors`."""

from openkcm.errors import CallerError


class KeyVersionUnknown(CallerError):
    code = "key_version_unknown"
    message = "the service has no such version of its key"
    hint = "openkcm service list shows the services, openkcm tenant show the versions of their keys"


class KeyVersionInUse(CallerError):
    """Something would be lost that nobody asked to lose."""

    code = "key_version_in_use"

    def __init__(self, service: str, version: int, use: str) -> None:
        super().__init__(
            f"version {version} of the key of {service} is in use: {use}",
            "rotate the service first, and retire only versions that encrypt nothing and hold no objects",
        )


class KeyVersionRetired(CallerError):
    """Sealed under a version of the service's key that is compromised or destroyed: genuine or not, it stays closed."""

    code = "key_version_retired"
    message = "this was encrypted under a version of the service's key that was retired"
    hint = "ask the security administrator why it was retired; store the data anew from its source"
