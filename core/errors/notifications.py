"""Errors about the receivers of notifications that a tenant chooses."""

from openkcm.errors import CallerError


class TargetInvalid(CallerError):
    code = "notification_target_invalid"
    message = "the notification target is not valid"
    hint = "see docs/notifications.md#delivery"


class TargetUnknown(CallerError):
    code = "notification_target_unknown"
    message = "the notification target does not exist"
    hint = "another administrator may have removed it; reload the page"


class TargetsFull(CallerError):
    code = "notification_targets_full"
    message = "the tenant has 10 notification targets, the maximum"
    hint = "remove one that is not used"


class DeliveryUnknown(CallerError):
    code = "notification_delivery_unknown"
    message = "the notification is not waiting and not a dead letter"
    hint = "it was delivered in the meantime, or its retention has ended; reload the page"


class TooManyTests(CallerError):
    code = "notification_tests_limited"
    message = "ten test notifications were requested within a minute, the maximum"
    hint = "try again in a minute"
