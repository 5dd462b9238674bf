"""Notifications to customers: texts, channels and message ids (`messages`), and their own receivers (`targets`)."""

from core.notifications.messages import (
    Channel,
    Notification,
    NotificationKind,
    announcement_text,
    dashboard_url,
    message_id,
    retry_delay,
)

__all__ = [
    "Channel",
    "Notification",
    "NotificationKind",
    "announcement_text",
    "dashboard_url",
    "message_id",
    "retry_delay",
]
