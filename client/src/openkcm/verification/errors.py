"""Errors of a file that could not be verified, which do not refute it; part of the vocabulary of `openkcm.errors`."""

from openkcm.errors import CallerError


class VerificationIncomplete(CallerError):
    """The verification lacks an input: the file is neither confirmed nor refuted."""

    code = "verification_incomplete"
    message = "the file could not be verified"
    hint = "provide the missing input and verify again; docs/audit.md#what-a-verdict-means lists the exit statuses"


class SigningKeyUnknown(VerificationIncomplete):
    """The signature names a key that is not among the given public keys."""

    code = "signing_key_unknown"
    message = "the given public keys do not include the signing key"
    hint = "get the platform's public keys from a trusted source and compare fingerprints: openkcmctl audit public-key"
