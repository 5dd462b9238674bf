"""Errors of services: protected fields, client certificates, tenant CA and cryptographic requests."""

from openkcm.errors import CallerError, PlatformError


class FieldInvalid(CallerError):
    """The name or the requested mode of a protected field is invalid."""

    code = "protected_field_invalid"
    message = "this field cannot be protected"
    hint = "name schema.table and a column, or database.collection and the dotted path of a field"


class FieldNotProtected(CallerError):
    code = "field_not_protected"
    message = "the service has no such protected field"
    hint = "openkcmctl service list-protected-fields lists the protected fields; names are case-sensitive"


class ProtectionFull(CallerError):
    code = "protection_full"
    message = "the service has the maximum number of protected fields"
    hint = "remove some, or connect another service for the programs that use the others"


class ClientNotAuthorized(CallerError):
    """The client certificate is genuine but not authorized: revoked, not recorded, or of a disconnected service."""

    code = "client_not_authorized"
    message = "client certificate not authorized"
    hint = "connect the service again: openkcmctl service connect"


class ServiceUnknown(CallerError):
    code = "service_unknown"
    message = "the tenant has no such service"
    hint = "openkcmctl service list shows the services of the tenant"


class ServiceConflict(CallerError):
    code = "service_conflict"
    message = "the service exists with another kind"
    hint = "choose another name, or connect it with its existing kind"


class ServiceAlreadyConnected(CallerError):
    """The service has a certificate for another key. A further certificate is issued only if it is asked for."""

    code = "service_already_connected"
    message = "the service is connected already, with another key"
    hint = (
        "renew its certificate with openkcmctl service renew, choose another name, or ask for a further certificate "
        "with openkcmctl service connect --another-certificate"
    )


class CaRotationInProgress(CallerError):
    """Certificates of the former CA are still valid. A tenant has at most two trusted CAs at a time."""

    code = "ca_rotation_in_progress"
    message = "certificates of the former tenant CA are still valid, so the current tenant CA is not rotated"
    hint = "retry after they expire, within three days; openkcmctl tenant show states the time"


class CaExpired(PlatformError):
    code = "ca_expired"
    message = "the tenant CA has expired, so it issues no certificates"
    hint = "rotate the tenant CA: openkcmctl certificate rotate-ca"


class InvalidRequest(CallerError):
    """The request is invalid. The message names the field and never its value."""

    code = "invalid_request"
    message = "the request is invalid"
    hint = "see /.well-known/openkcm for the operations and their fields"


class CiphertextRefused(CallerError):
    """The ciphertext is altered, truncated, or of another tenant, service or resource.

    All cases return the same error, so that a caller learns nothing from it (MTCI C3).
    """

    code = "ciphertext_refused"
    message = "the ciphertext cannot be decrypted for this caller and resource"
    hint = "send it unaltered, from the service that encrypted it, with the same resource"


class ObjectLimitReached(CallerError):
    """A service has as many KMIP objects as are permitted."""

    code = "object_limit_reached"

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"the service has {limit} objects, the most that are permitted",
            "destroy objects that are no longer needed, or ask the operator to raise crypto_service_max_objects",
        )


class ObjectNotFound(CallerError):
    """The object does not exist or belongs to another service; the caller cannot distinguish the two."""

    code = "object_not_found"
    message = "the object does not exist"
    hint = "check the unique identifier"
