"""Sending to the receivers that a tenant chose, and the signing secrets of its webhooks."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from activities.notifications.email import EmailSender
from activities.notifications.webhook import WebhookSender
from core.errors.platform import NotificationUndelivered
from core.notifications import Notification
from core.notifications.targets import TargetKind, secret_ref
from database.connection.database import Database
from database.notifications import TargetAddress
from database.platform.scheduled import PlatformQueries

_ENCRYPT_AGAIN_SECONDS = 300.0
"""The former intake key is removed at least 15 minutes after the workers have the new one (docs/own-servers.md)."""
_TENANTS = 500

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class SigningSecrets:
    """Decrypts signing secrets of webhooks with the intake key, which only the worker has.

    `decrypt` and `encrypt` take the tenant, the name of the secret, and the ciphertext or the secret. `is_replaced` is
    True while the intake key is replaced.
    """

    decrypt: Callable[[str, str, str], str | None]
    encrypt: Callable[[str, str, str], str]
    is_replaced: bool = False

    def of(self, tenant_id: str, target: TargetAddress) -> Sequence[str]:
        """Return the secrets of a webhook, the newest first; raises NotificationUndelivered without the newest."""
        newest = self._open(tenant_id, target, target.secret_number, target.sealed)
        if newest is None:
            raise NotificationUndelivered("the signing secret cannot be decrypted: rotate it in the dashboard")
        former = self._open(tenant_id, target, target.secret_number - 1, target.former_sealed)
        return [newest] if former is None else [newest, former]

    def encrypt_again(self, tenant_id: str, target: TargetAddress) -> tuple[str, str | None] | None:
        """Return both ciphertexts for the newest intake key; None without the newest secret."""
        newest = self._open(tenant_id, target, target.secret_number, target.sealed)
        if newest is None:
            return None
        former = self._open(tenant_id, target, target.secret_number - 1, target.former_sealed)
        ref, former_ref = (secret_ref(target.target_id, target.secret_number - n) for n in (0, 1))
        return self.encrypt(tenant_id, ref, newest), former and self.encrypt(tenant_id, former_ref, former)

    def _open(self, tenant_id: str, target: TargetAddress, number: int, sealed: str | None) -> str | None:
        return None if sealed is None else self.decrypt(tenant_id, secret_ref(target.target_id, number), sealed)


class TargetSender:
    """Sends to targets; `mail` is None without a mail server in the settings."""

    def __init__(self, webhooks: WebhookSender, mail: EmailSender | None, secrets: SigningSecrets) -> None:
        self._webhooks = webhooks
        self._mail = mail
        self._secrets = secrets
        self._encrypted_at = -_ENCRYPT_AGAIN_SECONDS

    def send(self, notification: Notification, target: TargetAddress) -> int | None:
        """Send a message and return the status of a webhook's receiver; raises NotificationUndelivered."""
        if target.kind is TargetKind.EMAIL:
            if self._mail is None:
                raise NotificationUndelivered("the platform has no mail server: use a webhook, or ask the operator")
            self._mail.send_to(notification, target.address)
            return None
        secrets = self._secrets.of(notification.tenant_id, target)
        return self._webhooks.send_to(notification, target.address, secrets)

    def renew_encryption(self, database: Database, platform: PlatformQueries) -> None:
        """Encrypt all signing secrets for the newest intake key, every five minutes while it is replaced."""
        if not self._secrets.is_replaced or time.monotonic() < self._encrypted_at + _ENCRYPT_AGAIN_SECONDS:
            return
        after, renewed = "", 0
        while tenants := platform.tenants_with_webhooks(after, _TENANTS):
            for after in tenants:
                with database.tenant_tx(after) as tx:
                    for target in tx.targets.webhooks():
                        again = self._secrets.encrypt_again(after, target)
                        if again is not None:
                            tx.targets.encrypt_again(target.target_id, *again)
                            renewed += 1
        self._encrypted_at = time.monotonic()
        log.info("signing secrets encrypted for the new intake key", secrets=renewed)
