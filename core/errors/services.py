"""What can be wrong with a change of a service's protection; part of the vocabulary of `errors`."""

from openkcm.errors import CallerError, PlatformError


class FieldInvalid(CallerError):
    """Not the name of a field that can be protected, or what cannot be asked of one."""

    code = "protected_field_invalid"
    message = "this cannot be protected"
    hint = "name schema.table and a column, or database.collection and the dotted path of a field"


class FieldNotProtected(CallerError):
    code = "field_not_protected"
    message = "the service has no such protected field"
    hint = "openkcmctl service list-protected-fields lists those it has; names are told apart by upper and lower case"


class ProtectionFull(CallerError):
    code = "protection_full"
    message = "the service has as many protected fields as one can have"
    hint = "take some off, or connect another service for the programs that use the others"


class ClientNotAuthorized(CallerError):
    """The client certificate is genuine but opens nothing: revoked, not on record, or of a disconnected service."""

    code = "caller_refused"
    message = "this certificate opens nothing here"
    hint = "connect the service again: openkcmctl service connect"


class ServiceUnknown(CallerError):
    code = "service_unknown"
    message = "the tenant has no such service"
    hint = "openkcmctl service list shows those it has"


class ServiceConflict(CallerError):
    code = "service_conflict"
    message = "the service exists as another kind"
    hint = "choose another name, or connect it as the kind it was connected as"


class CaRotationInProgress(CallerError):
    """Two authorities of a tenant are believed while the leaves of the former last; a third never."""

    code = "authority_overlaps"
    message = "certificates of the former authority are still in use, so the current one is not rolled"
    hint = "they end within three days by themselves; openkcmctl tenant show says when, ask again after that"


class CaExpired(PlatformError):
    code = "authority_lapsed"
    message = "the tenant's certificate authority has expired, so it issues nothing"
    hint = "have a new one made: openkcmctl certificate rotate-ca"


class InvalidRequest(CallerError):
    """The request is not one the crypto service understands; the message names the field and never its value."""

    code = "invalid_request"
    message = "the request is not one the crypto service understands"
    hint = "see /.well-known/openkcm for the operations and their fields"


class CiphertextRefused(CallerError):
    """Altered, cut, of another tenant, service or resource: all alike, so that nothing can be learnt (MTCI C3)."""

    code = "ciphertext_refused"
    message = "the ciphertext does not open for this caller and resource"
    hint = "send it unaltered, from the service that encrypted it, with the same resource"


class ObjectNotFound(CallerError):
    """Not there, or not the caller's; nobody outside can tell which."""

    code = "object_not_found"
    message = "there is no such object"
    hint = "check the unique identifier"
