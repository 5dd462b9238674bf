"""What can be wrong with a change of a service's protection; part of the vocabulary of `errors`."""

from openkcm.errors import CallerError


class FieldInvalid(CallerError):
    """Not the name of a field that can be protected, or what cannot be asked of one."""

    code = "protected_field_invalid"
    message = "this cannot be protected"
    hint = "name schema.table and a column, or database.collection and the dotted path of a field"


class FieldNotProtected(CallerError):
    code = "field_not_protected"
    message = "the service has no such protected field"
    hint = "openkcm protection show lists those it has; names are told apart by upper and lower case"


class ProtectionFull(CallerError):
    code = "protection_full"
    message = "the service has as many protected fields as one can have"
    hint = "take some off, or connect another service for the programs that use the others"
