"""Errors of a protected application; each driver integration raises them as errors of its driver."""

from openkcm.errors import CallerError, PlatformError


class StatementRefused(CallerError):
    """Rejected before anything was sent: it would store plaintext, or ciphertext cannot answer it."""

    code = "statement_refused"
    message = "the statement is not supported on protected columns"
    hint = "see docs/postgresql.md#supported-statements and docs/mongodb.md#supported-operations"


class ProtectionUnusable(CallerError):
    code = "protection_unusable"
    message = "the columns cannot be protected in their present form"
    hint = "see docs/postgresql.md#requirements and docs/mongodb.md#requirements"


class ProtectionUnknown(PlatformError):
    """A program that has just started could not load the list; nothing was sent."""

    code = "protection_unknown"
    message = "the list of protected fields is not available"
    hint = "check that the crypto service is reachable and the tenant active; the program retries automatically"


class ProtectedValueRefused(CallerError):
    code = "protected_value_refused"
    message = "a stored value cannot be decrypted: it was altered, moved, or encrypted by another service"
    hint = "restore the row from a backup, and find the program that wrote it"


class PlainValueFound(CallerError):
    code = "unencrypted_value_found"
    message = "a protected column contains a value that is not encrypted"
    hint = "encrypt earlier rows with openkcm backfill, and allow plain values while it runs"


class ColumnKeyUnavailable(PlatformError):
    code = "column_key_unavailable"
    message = "the key of a protected column cannot be unwrapped"
    hint = "check that the crypto service is reachable and the tenant active; the program retries automatically"


class RunRefused(CallerError):
    """`openkcm run` did not start the program, because the program could not be protected."""

    code = "run_refused"
    message = "the program cannot be protected and was not started"
    hint = "see docs/postgresql.md#requirements for what a protected program needs"


class BackfillRefused(CallerError):
    """`openkcm backfill` cannot run with this database or these options."""

    code = "backfill_refused"
    message = "the earlier rows cannot be encrypted"
    hint = "see docs/postgresql.md#requirements for the requirements of a protected column and its table"


class BackfillRunning(CallerError):
    code = "backfill_running"
    message = "another backfill runs on the same table"
    hint = "wait for it or stop it; a new run resumes"


class BackfillStopped(CallerError):
    """It ended early, after an error or a signal; completed batches stay."""

    code = "backfill_stopped"
    message = "the backfill ended early"
    hint = "run it again to resume"


class BackfillUnfinished(CallerError):
    """It is complete, but reading all values back found plain or undecryptable ones."""

    code = "backfill_unfinished"
    message = "not every value is encrypted and can be decrypted"
    hint = "see the problem of each column and docs/postgresql.md#encrypt-existing-rows, then run it again to resume"
