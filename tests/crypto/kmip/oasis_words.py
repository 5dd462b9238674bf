"""Words of the OASIS cases that the product never looks at."""

from enum import IntEnum


class AlternativeNameType(IntEnum):
    UNINTERPRETED_TEXT_STRING = 1
    URI = 2
    OBJECT_SERIAL_NUMBER = 3


class CancellationResult(IntEnum):
    CANCELED = 1


class CertificateRequestType(IntEnum):
    PKCS_10 = 2


class CertificateType(IntEnum):
    X_509 = 1


class CredentialType(IntEnum):
    USERNAME_AND_PASSWORD = 1
    DEVICE = 2


class KeyValueLocationType(IntEnum):
    UNINTERPRETED_TEXT_STRING = 1
    URI = 2


class PutFunction(IntEnum):
    NEW = 1


class SplitKeyMethod(IntEnum):
    XOR = 1
    POLYNOMIAL_SHARING_GF_2_8 = 4
