"""The supported operations: handler, permitted tenant states, audit operation, and fields of the request."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from core.services import CryptoOperation
from core.tenants.lifecycle import DECRYPTS, ENCRYPTS, State
from crypto_service.kmip.batch import Handler
from crypto_service.kmip.codec.enums import Operation
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.objects.key_material import TAGS
from crypto_service.kmip.operations import attributes as change_attributes
from crypto_service.kmip.operations import attributes as read_attributes
from crypto_service.kmip.operations import create, crypto, lifecycle, locate, mac, rekey, rng
from crypto_service.kmip.operations import usage_limits as usage
from crypto_service.kmip.operations.create import create_key_pair, derive_key
from crypto_service.kmip.operations.get import get
from crypto_service.kmip.operations.query import discover_versions, query


@dataclass(frozen=True, slots=True)
class SupportedOperation:
    """`needs` lists the permitted tenant states; `audited` is None where no object of a tenant is accessed."""

    handler: Handler
    audited: CryptoOperation | None
    needs: frozenset[State]
    since: int = 0


_C = CryptoOperation
_SUPPORTED: dict[int, SupportedOperation] = {
    Operation.DISCOVER_VERSIONS: SupportedOperation(discover_versions, None, DECRYPTS, 1),
    Operation.CREATE: SupportedOperation(create.create, _C.CREATE, ENCRYPTS),
    Operation.CREATE_KEY_PAIR: SupportedOperation(create_key_pair, _C.CREATE, ENCRYPTS),
    Operation.REGISTER: SupportedOperation(create.register, _C.REGISTER, ENCRYPTS),
    Operation.REKEY: SupportedOperation(rekey.rekey, _C.REKEY, ENCRYPTS),
    Operation.DERIVE_KEY: SupportedOperation(derive_key, _C.CREATE, ENCRYPTS),
    Operation.LOCATE: SupportedOperation(locate.locate, _C.LOCATE, DECRYPTS),
    Operation.CHECK: SupportedOperation(usage.check, _C.ATTRIBUTES, DECRYPTS),
    Operation.GET: SupportedOperation(get, _C.GET, DECRYPTS),
    Operation.GET_ATTRIBUTES: SupportedOperation(read_attributes.get_attributes, _C.ATTRIBUTES, DECRYPTS),
    Operation.GET_ATTRIBUTE_LIST: SupportedOperation(read_attributes.get_attribute_list, _C.ATTRIBUTES, DECRYPTS),
    Operation.ADD_ATTRIBUTE: SupportedOperation(change_attributes.add_attribute, _C.CHANGE_ATTRIBUTES, ENCRYPTS),
    Operation.MODIFY_ATTRIBUTE: SupportedOperation(change_attributes.modify_attribute, _C.CHANGE_ATTRIBUTES, ENCRYPTS),
    Operation.DELETE_ATTRIBUTE: SupportedOperation(change_attributes.delete_attribute, _C.CHANGE_ATTRIBUTES, ENCRYPTS),
    Operation.OBTAIN_LEASE: SupportedOperation(usage.obtain_lease, _C.ATTRIBUTES, DECRYPTS),
    Operation.GET_USAGE_ALLOCATION: SupportedOperation(usage.get_usage_allocation, _C.CHANGE_ATTRIBUTES, ENCRYPTS),
    Operation.ACTIVATE: SupportedOperation(lifecycle.activate, _C.ACTIVATE, ENCRYPTS),
    Operation.REVOKE: SupportedOperation(lifecycle.revoke, _C.REVOKE, DECRYPTS),
    Operation.DESTROY: SupportedOperation(lifecycle.destroy, _C.DESTROY, DECRYPTS),
    Operation.ARCHIVE: SupportedOperation(lifecycle.archive, _C.CHANGE_ATTRIBUTES, ENCRYPTS),
    Operation.RECOVER: SupportedOperation(lifecycle.recover, _C.CHANGE_ATTRIBUTES, ENCRYPTS),
    Operation.ENCRYPT: SupportedOperation(crypto.encrypt, _C.ENCRYPT, ENCRYPTS, 2),
    Operation.DECRYPT: SupportedOperation(crypto.decrypt, _C.DECRYPT, DECRYPTS, 2),
    # A signature is for a key pair what a MAC is for a symmetric key; the audit has one operation for both.
    Operation.SIGN: SupportedOperation(crypto.make_signature, _C.MAC, ENCRYPTS, 2),
    Operation.SIGNATURE_VERIFY: SupportedOperation(crypto.verify_signature, _C.MAC, DECRYPTS, 2),
    Operation.MAC: SupportedOperation(mac.mac, _C.MAC, ENCRYPTS, 2),
    Operation.MAC_VERIFY: SupportedOperation(mac.mac_verify, _C.MAC, DECRYPTS, 2),
    Operation.RNG_RETRIEVE: SupportedOperation(rng.rng_retrieve, _C.RANDOM, ENCRYPTS, 2),
    Operation.RNG_SEED: SupportedOperation(rng.rng_seed, _C.RANDOM, ENCRYPTS, 2),
}
_SUPPORTED[Operation.QUERY] = SupportedOperation(
    query([(Operation.QUERY, 0), *((number, supported.since) for number, supported in _SUPPORTED.items())]),
    None,
    DECRYPTS,
)
OPERATIONS: Mapping[int, SupportedOperation] = MappingProxyType(_SUPPORTED)

_ONE_OBJECT = (Tag.UNIQUE_IDENTIFIER,)
_PARTS = (Tag.CORRELATION_VALUE, Tag.INIT_INDICATOR, Tag.FINAL_INDICATOR)
_USE = (*_ONE_OBJECT, Tag.CRYPTOGRAPHIC_PARAMETERS, Tag.DATA, *_PARTS)
_CIPHER = (*_USE, Tag.IV_COUNTER_NONCE, Tag.AUTHENTICATED_ENCRYPTION_ADDITIONAL_DATA)
_SIGNATURE = (*_USE, Tag.DIGESTED_DATA)
_FIELDS: dict[int, Sequence[int]] = {
    Operation.DISCOVER_VERSIONS: (Tag.PROTOCOL_VERSION,),
    Operation.QUERY: (Tag.QUERY_FUNCTION,),
    Operation.CREATE: (Tag.OBJECT_TYPE, Tag.TEMPLATE_ATTRIBUTE),
    Operation.CREATE_KEY_PAIR: (
        Tag.COMMON_TEMPLATE_ATTRIBUTE,
        Tag.PRIVATE_KEY_TEMPLATE_ATTRIBUTE,
        Tag.PUBLIC_KEY_TEMPLATE_ATTRIBUTE,
    ),
    Operation.REGISTER: (Tag.OBJECT_TYPE, Tag.TEMPLATE_ATTRIBUTE, *TAGS.values()),
    Operation.REKEY: (*_ONE_OBJECT, Tag.OFFSET, Tag.TEMPLATE_ATTRIBUTE),
    Operation.DERIVE_KEY: (
        *_ONE_OBJECT,
        Tag.OBJECT_TYPE,
        Tag.DERIVATION_METHOD,
        Tag.DERIVATION_PARAMETERS,
        Tag.TEMPLATE_ATTRIBUTE,
    ),
    Operation.LOCATE: (
        Tag.MAXIMUM_ITEMS,
        Tag.OFFSET_ITEMS,
        Tag.STORAGE_STATUS_MASK,
        Tag.OBJECT_GROUP_MEMBER,
        Tag.ATTRIBUTE,
        Tag.TEMPLATE_ATTRIBUTE,
    ),
    Operation.CHECK: (*_ONE_OBJECT, Tag.USAGE_LIMITS_COUNT, Tag.CRYPTOGRAPHIC_USAGE_MASK, Tag.LEASE_TIME),
    Operation.GET: (
        *_ONE_OBJECT,
        Tag.KEY_FORMAT_TYPE,
        Tag.KEY_WRAP_TYPE,
        Tag.KEY_COMPRESSION_TYPE,
        Tag.KEY_WRAPPING_SPECIFICATION,
    ),
    Operation.GET_ATTRIBUTES: (*_ONE_OBJECT, Tag.ATTRIBUTE_NAME),
    Operation.GET_ATTRIBUTE_LIST: _ONE_OBJECT,
    Operation.ADD_ATTRIBUTE: (*_ONE_OBJECT, Tag.ATTRIBUTE),
    Operation.MODIFY_ATTRIBUTE: (*_ONE_OBJECT, Tag.ATTRIBUTE),
    Operation.DELETE_ATTRIBUTE: (*_ONE_OBJECT, Tag.ATTRIBUTE_NAME, Tag.ATTRIBUTE_INDEX),
    Operation.OBTAIN_LEASE: _ONE_OBJECT,
    Operation.GET_USAGE_ALLOCATION: (*_ONE_OBJECT, Tag.USAGE_LIMITS_COUNT),
    Operation.ACTIVATE: _ONE_OBJECT,
    Operation.REVOKE: (*_ONE_OBJECT, Tag.REVOCATION_REASON, Tag.COMPROMISE_OCCURRENCE_DATE),
    Operation.DESTROY: _ONE_OBJECT,
    Operation.ARCHIVE: _ONE_OBJECT,
    Operation.RECOVER: _ONE_OBJECT,
    Operation.ENCRYPT: _CIPHER,
    Operation.DECRYPT: (*_CIPHER, Tag.AUTHENTICATED_ENCRYPTION_TAG),
    Operation.SIGN: _SIGNATURE,
    Operation.SIGNATURE_VERIFY: (*_SIGNATURE, Tag.SIGNATURE_DATA),
    # The nonce of GMAC, for which the specification has no field.
    Operation.MAC: (*_USE, Tag.IV_COUNTER_NONCE),
    Operation.MAC_VERIFY: (*_USE, Tag.IV_COUNTER_NONCE, Tag.MAC_DATA),
    Operation.RNG_RETRIEVE: (Tag.DATA_LENGTH,),
    Operation.RNG_SEED: (Tag.DATA,),
}
FIELDS: Mapping[int, frozenset[int]] = MappingProxyType({key: frozenset(tags) for key, tags in _FIELDS.items()})
"""The fields of each operation's request payload in KMIP 1.4; a request with any other is rejected."""
