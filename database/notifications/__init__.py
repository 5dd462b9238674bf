"""The transactional outbox (`outbox`) and the receivers that a tenant chose (`targets`)."""

from database.notifications.outbox import (
    Delivery,
    DeliveryAttempt,
    MessageQueue,
    Outbox,
    UndeliveredNotification,
)
from database.notifications.targets import NotificationTargets, TargetAddress

__all__ = [
    "Delivery",
    "DeliveryAttempt",
    "MessageQueue",
    "NotificationTargets",
    "Outbox",
    "TargetAddress",
    "UndeliveredNotification",
]
