"""Errors of the platform's own components: settings, key server, database, workflow service, notifications.

An error has its own class where a caller would react differently. Each class has a `code` (stable, for programs), a
`fault`, `retryable` and a `hint` with the next step. Texts are lower case, have no final period, and contain no secret
and no name of another tenant. Each interface (webhook, command, workflow) has one table that maps errors to responses;
it maps any other exception to "internal", with a reference into the log.
"""

from openkcm.errors import CallerError, OpenKcmError, PlatformError


class SettingsInvalid(CallerError):
    code = "settings_invalid"
    message = "the settings cannot be used"
    hint = "see docs/settings.md"


class SecretsDiffer(CallerError):
    """A server that is already set up does not accept the secrets of this host; nothing was changed."""

    code = "secrets_differ"
    hint = "use the secrets of the host that set it up; to replace them, see docs/own-servers.md#replace-secrets"

    def __init__(self, server: str, differences: str) -> None:
        super().__init__(f"the {server} is already set up with other secrets: {differences}")


class VaultUnavailable(PlatformError):
    code = "vault_unavailable"
    message = "the key server does not answer"
    hint = "check that OpenBao or Vault is running and unsealed, its address, and that vault_ca_file has its CA"


class VaultRefused(PlatformError):
    code = "vault_refused"
    message = "the key server rejected the request"
    hint = "compare the policy of this process with the files in vault/policies"


class ConflictingResource(OpenKcmError):
    """A resource of this name exists but differs from the required one; an operator must check it before its use."""

    code = "conflicting_resource"
    hint = "see docs/runbook.md#conflicting-resource"

    def __init__(self, kind: str, name: str, difference: str) -> None:
        super().__init__(f"the {kind} {name} exists but differs from the required one: {difference}")


class DatabaseUnavailable(PlatformError):
    code = "database_unavailable"
    message = "the database does not answer"
    hint = "check that PostgreSQL is running and reachable at the configured address"


class DatabaseLoginRefused(DatabaseUnavailable):
    """The server answers, and rejects user or password; a retry succeeds after the correction of either side.

    For operators only, as by logs, readiness and commands: a transaction for a customer raises DatabaseUnavailable.
    """

    code = "database_login_refused"
    message = "the database answers and rejects the login"
    hint = "compare role and password with the server's, and check pg_hba.conf (docs/own-servers.md#first-checks)"


class SchemaOutdated(DatabaseUnavailable):
    """The schema lacks a migration that this version of the process needs; a retry succeeds after it."""

    code = "schema_outdated"
    message = "the database schema is older than this version needs"
    hint = "run openkcmctl setup database of this version (docs/upgrading.md#versions)"


class ReleaseOutdated(DatabaseUnavailable):
    """A migration of a later release removed what this version of the process needs."""

    code = "release_outdated"
    hint = "start a newer version of this process (docs/upgrading.md#versions)"

    def __init__(self, version: int, oldest: int, known: int) -> None:
        super().__init__(
            f"the database has schema {version}, which permits processes from {oldest}; this version has {known}"
        )


class DatabaseRefused(OpenKcmError):
    """Row-level security or a constraint rejected the statement; a bug or an attack, never retried."""

    code = "database_refused"
    message = "the database rejected the statement"
    hint = "see the log for the constraint"


class SchemaRefused(OpenKcmError):
    """The migrator or its check found an unsupported schema."""

    code = "schema_refused"
    message = "the database schema is not supported"
    hint = "see docs/runbook.md#the-schema-breaks-a-rule"


class TemporalUnavailable(PlatformError):
    code = "temporal_unavailable"
    message = "the workflow service does not answer"
    hint = "check that Temporal is running, its address, namespace and TLS (TEMPORAL_*)"


class Superseded(PlatformError):
    code = "superseded"
    message = "another attempt of the same step finished first"
    hint = "no action is needed; the next attempt uses that result"


class NotificationUndelivered(PlatformError):
    code = "notification_undelivered"
    message = "the receiver rejects the notification"
    hint = "check callback_url and the SMTP settings; the platform retries with the same message id"


class ComponentFailed(PlatformError):
    code = "component_failed"
    message = "a server of the embedded stack did not start"
    hint = "read the log of the component in logs under state_dir"
