"""The error vocabulary: one class per thing a caller would do differently.

Each class says its `code` (stable, for programs), whose `fault` it is, whether trying again can help, and a `hint`
that tells a person the next step. Texts are lower case, without a final period, and hold no secret and no name of
another tenant. Every edge (webhook, command, workflow) has one table from these to its answers; anything that is not
an `OpenKcmError` becomes "internal" there, with a reference into the log.
"""

from openkcm.errors import CallerError, OpenKcmError, PlatformError


class SettingsInvalid(CallerError):
    code = "settings_invalid"
    message = "the settings cannot be used"
    hint = "see docs/settings.md"


class VaultUnavailable(PlatformError):
    code = "vault_unavailable"
    message = "the key server does not answer"
    hint = "check that OpenBao or Vault is running and unsealed: make status"


class VaultRefused(PlatformError):
    code = "vault_refused"
    message = "the key server refused the request"
    hint = "compare the policy of this process with the files in vault/policies"


class ConflictingResource(OpenKcmError):
    """What exists under the name is not what was asked for; a person must look before anything is used."""

    code = "conflicting_resource"
    hint = "see docs/runbook.md#something-else-has-that-name"

    def __init__(self, kind: str, name: str, difference: str) -> None:
        super().__init__(f"the {kind} {name} exists but is not as required: {difference}")


class DatabaseUnavailable(PlatformError):
    code = "database_unavailable"
    message = "the database does not answer"
    hint = "check that PostgreSQL is running: make status"


class DatabaseRefused(OpenKcmError):
    """Row security or a constraint refused the statement; a fault of ours or an attack, never retried."""

    code = "database_refused"
    message = "the database refused the statement"
    hint = "see the log for the constraint"


class SchemaRefused(OpenKcmError):
    """The migrator or its gate found a schema it must not run on."""

    code = "schema_refused"
    message = "the database schema is not one to run on"
    hint = "see docs/runbook.md#the-schema-breaks-a-rule"


class TemporalUnavailable(PlatformError):
    code = "temporal_unavailable"
    message = "the workflow service does not answer"
    hint = "check that Temporal is running: make status"


class Superseded(PlatformError):
    code = "overtaken"
    message = "another attempt of the same step ended meanwhile"
    hint = "nothing is wrong; the next attempt finds what that one made"


class NotificationUndelivered(PlatformError):
    code = "announcement_undelivered"
    message = "the receiver of the announcement does not take it"
    hint = "check callback_url and the SMTP settings; it is tried again with the same message id"


class ComponentFailed(PlatformError):
    code = "component_failed"
    message = "a server of the embedded stack did not start"
    hint = "python -m devstack doctor says what is missing; each server's log lies in logs under state_dir"
