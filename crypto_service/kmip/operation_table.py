"""The supported operations: handler, permitted tenant states, audit operation, and fields of the request."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from core.services import CryptoOperation
from core.tenants.lifecycle import DECRYPTS, ENCRYPTS, State
from crypto_service.kmip.batch import Handler
from crypto_service.kmip.codec.enums import Operation
from crypto_service.kmip.codec.framing import VERSION_2
from crypto_service.kmip.operations import attributes as change_attributes
from crypto_service.kmip.operations import attributes as read_attributes
from crypto_service.kmip.operations import create, crypto, lifecycle, locate, mac, rekey, rng, signatures
from crypto_service.kmip.operations import usage_limits as usage
from crypto_service.kmip.operations.create import create_key_pair, derive_key
from crypto_service.kmip.operations.get import get
from crypto_service.kmip.operations.query import discover_versions, log_message, query


@dataclass(frozen=True, slots=True)
class SupportedOperation:
    """`needs` lists the permitted tenant states; `audited` is None where no object of a tenant is accessed.

    `since` is the feature level of the first version with the operation.
    """

    handler: Handler
    audited: CryptoOperation | None
    needs: frozenset[State]
    since: int = 0


_C = CryptoOperation
_SUPPORTED: dict[int, SupportedOperation] = {
    Operation.DISCOVER_VERSIONS: SupportedOperation(discover_versions, None, DECRYPTS, 1),
    Operation.LOG: SupportedOperation(log_message, None, DECRYPTS, VERSION_2),
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
    Operation.SET_ATTRIBUTE: SupportedOperation(
        change_attributes.set_attribute, _C.CHANGE_ATTRIBUTES, ENCRYPTS, VERSION_2
    ),
    Operation.ADJUST_ATTRIBUTE: SupportedOperation(
        change_attributes.adjust_attribute, _C.CHANGE_ATTRIBUTES, ENCRYPTS, VERSION_2
    ),
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
    Operation.SIGN: SupportedOperation(signatures.sign, _C.MAC, ENCRYPTS, 2),
    Operation.SIGNATURE_VERIFY: SupportedOperation(signatures.signature_verify, _C.MAC, DECRYPTS, 2),
    Operation.MAC: SupportedOperation(mac.mac, _C.MAC, ENCRYPTS, 2),
    Operation.MAC_VERIFY: SupportedOperation(mac.mac_verify, _C.MAC, DECRYPTS, 2),
    Operation.HASH: SupportedOperation(mac.make_hash, None, DECRYPTS, 2),
    Operation.RNG_RETRIEVE: SupportedOperation(rng.rng_retrieve, _C.RANDOM, ENCRYPTS, 2),
    Operation.RNG_SEED: SupportedOperation(rng.rng_seed, _C.RANDOM, ENCRYPTS, 2),
}
_SUPPORTED[Operation.QUERY] = SupportedOperation(
    query([(Operation.QUERY, 0), *((number, supported.since) for number, supported in _SUPPORTED.items())]),
    None,
    DECRYPTS,
)
OPERATIONS: Mapping[int, SupportedOperation] = MappingProxyType(_SUPPORTED)
