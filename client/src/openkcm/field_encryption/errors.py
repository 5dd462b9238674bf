"""Errors that a protected application meets; each hook gives them to it as errors of its own driver."""

from openkcm.errors import CallerError, PlatformError


class StatementRefused(CallerError):
    """Refused before anything was sent, because it would store plaintext or cannot be answered from ciphertext."""

    code = "statement_refused"
    message = "the statement cannot be run on protected columns"
    hint = "see docs/postgresql.md#what-can-be-asked and docs/mongodb.md#what-can-be-asked"


class ProtectionUnusable(CallerError):
    code = "protection_unusable"
    message = "the columns cannot be protected as they are"
    hint = "see docs/postgresql.md#what-is-needed and docs/mongodb.md#what-is-needed"


class ProtectionUnknown(PlatformError):
    """A program that has just started could not ask for the list; nothing was sent."""

    code = "protection_unknown"
    message = "which fields are protected is not known"
    hint = "see that the crypto service is reached and that the tenant is active; it is tried again by itself"


class ProtectedValueRefused(CallerError):
    code = "protected_value_refused"
    message = "a stored value does not open in its place: it was altered, moved, or encrypted by another service"
    hint = "restore the row from a backup, or find out who wrote it"


class PlainValueFound(CallerError):
    code = "plain_value_found"
    message = "a protected column holds a value that is not encrypted"
    hint = "encrypt the rows from before the protection, and allow plain values while that runs"


class ColumnKeyUnavailable(PlatformError):
    code = "column_key_unavailable"
    message = "the key of a protected column cannot be opened"
    hint = "see that the crypto service is reached and that the tenant is active; it is tried again by itself"


class RunRefused(CallerError):
    """`openkcm run` did not start the program, because it could not be protected."""

    code = "run_refused"
    message = "the program cannot be protected and was not started"
    hint = "see docs/postgresql.md#what-is-needed for what a protected program needs"


class BackfillRefused(CallerError):
    """`openkcm backfill` cannot do what it was asked with this database as it is."""

    code = "backfill_refused"
    message = "the rows from before cannot be encrypted as things are"
    hint = "see docs/postgresql.md#what-is-needed for what a protected column and its table must be"


class BackfillRunning(CallerError):
    code = "backfill_running"
    message = "another backfill is at work on the same table"
    hint = "wait for it, or end it: this one goes on where it was"


class BackfillStopped(CallerError):
    """It ended by itself or by a signal before it was finished; what it did is done."""

    code = "backfill_stopped"
    message = "the backfill ended before it was finished"
    hint = "run it again: it goes on where it was"


class BackfillUnfinished(CallerError):
    """It came to its end, and reading everything back found values that are not as they should be."""

    code = "backfill_unfinished"
    message = "not every value is encrypted and opens"
    hint = "see the problem of each column and docs/postgresql.md#rows-from-before, then run it again: it resumes"
