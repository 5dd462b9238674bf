"""Enumerations of the OASIS cases that the product does not use."""

from enum import IntEnum

AlternativeNameType = IntEnum("AlternativeNameType", ["UNINTERPRETED_TEXT_STRING", "URI", "OBJECT_SERIAL_NUMBER"])
CancellationResult = IntEnum("CancellationResult", ["CANCELED"])
CertificateRequestType = IntEnum("CertificateRequestType", {"PKCS_10": 2})
CertificateType = IntEnum("CertificateType", ["X_509"])
CredentialType = IntEnum("CredentialType", ["USERNAME_AND_PASSWORD", "DEVICE"])
KeyValueLocationType = IntEnum("KeyValueLocationType", ["UNINTERPRETED_TEXT_STRING", "URI"])
PutFunction = IntEnum("PutFunction", ["NEW"])
SplitKeyMethod = IntEnum("SplitKeyMethod", {"XOR": 1, "POLYNOMIAL_SHARING_GF_2_8": 4})
