"""Notifications: stored with their cause (`outbox`), sent by `delivery` through the senders of the other modules."""

from activities.notifications.callback import CallbackSender
from activities.notifications.delivery import NotificationActivities, Sender
from activities.notifications.email import EmailSender
from activities.notifications.outbox import NotificationOutbox
from activities.notifications.targets import SigningSecrets, TargetSender
from activities.notifications.webhook import WebhookSender

__all__ = [
    "CallbackSender",
    "EmailSender",
    "NotificationActivities",
    "NotificationOutbox",
    "Sender",
    "SigningSecrets",
    "TargetSender",
    "WebhookSender",
]
