"""Why a file could not be verified, which is no finding against it; part of the vocabulary of `errors`."""

from openkcm.errors import CallerError


class VerificationIncomplete(CallerError):
    """Something that the verification needs is missing: the file is neither confirmed nor refuted."""

    code = "verification_incomplete"
    message = "the file could not be verified"
    hint = "provide what is missing and verify again; docs/audit.md#what-a-verdict-means lists the exit statuses"


class SigningKeyUnknown(VerificationIncomplete):
    """The signature names another key than the public keys that were given."""

    code = "signing_key_unknown"
    message = "the public keys given do not include the key that signed"
    hint = "get the platform's public keys by a way you trust and compare fingerprints: openkcmctl audit public-key"
