"""The operations that are served: by which function, in which states of the tenant, and what the audit calls them."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from core.services import CryptoOperation
from core.tenants.lifecycle import DECRYPTS, ENCRYPTS, State
from crypto_service.kmip.batch import Handler
from crypto_service.kmip.codec.enums import Operation
from crypto_service.kmip.operations import attributes as change_attributes
from crypto_service.kmip.operations import attributes as read_attributes
from crypto_service.kmip.operations import create, lifecycle, locate, rekey
from crypto_service.kmip.operations import crypto as cipher
from crypto_service.kmip.operations import crypto as mac
from crypto_service.kmip.operations import crypto as sign
from crypto_service.kmip.operations import usage_limits as usage
from crypto_service.kmip.operations.create import create_key_pair, derive_key
from crypto_service.kmip.operations.get import get
from crypto_service.kmip.operations.query import discover_versions, query


@dataclass(frozen=True, slots=True)
class Served:
    """`needs`: the states of the tenant in which it works; `audited` is None where nothing of a tenant is touched."""

    handler: Handler
    audited: CryptoOperation | None
    needs: frozenset[State]
    since: int = 0


_C = CryptoOperation
_SERVED: dict[int, Served] = {
    Operation.DISCOVER_VERSIONS: Served(discover_versions, None, DECRYPTS, 1),
    Operation.CREATE: Served(create.create, _C.CREATE, ENCRYPTS),
    Operation.CREATE_KEY_PAIR: Served(create_key_pair, _C.CREATE, ENCRYPTS),
    Operation.REGISTER: Served(create.register, _C.REGISTER, ENCRYPTS),
    Operation.REKEY: Served(rekey.rekey, _C.REKEY, ENCRYPTS),
    Operation.DERIVE_KEY: Served(derive_key, _C.CREATE, ENCRYPTS),
    Operation.LOCATE: Served(locate.locate, _C.LOCATE, DECRYPTS),
    Operation.CHECK: Served(usage.check, _C.ATTRIBUTES, DECRYPTS),
    Operation.GET: Served(get, _C.GET, DECRYPTS),
    Operation.GET_ATTRIBUTES: Served(read_attributes.get_attributes, _C.ATTRIBUTES, DECRYPTS),
    Operation.GET_ATTRIBUTE_LIST: Served(read_attributes.get_attribute_list, _C.ATTRIBUTES, DECRYPTS),
    Operation.ADD_ATTRIBUTE: Served(change_attributes.add_attribute, _C.CHANGE_ATTRIBUTES, ENCRYPTS),
    Operation.MODIFY_ATTRIBUTE: Served(change_attributes.modify_attribute, _C.CHANGE_ATTRIBUTES, ENCRYPTS),
    Operation.DELETE_ATTRIBUTE: Served(change_attributes.delete_attribute, _C.CHANGE_ATTRIBUTES, ENCRYPTS),
    Operation.OBTAIN_LEASE: Served(usage.obtain_lease, _C.ATTRIBUTES, DECRYPTS),
    Operation.GET_USAGE_ALLOCATION: Served(usage.get_usage_allocation, _C.CHANGE_ATTRIBUTES, ENCRYPTS),
    Operation.ACTIVATE: Served(lifecycle.activate, _C.ACTIVATE, ENCRYPTS),
    Operation.REVOKE: Served(lifecycle.revoke, _C.REVOKE, DECRYPTS),
    Operation.DESTROY: Served(lifecycle.destroy, _C.DESTROY, DECRYPTS),
    Operation.ARCHIVE: Served(lifecycle.archive, _C.CHANGE_ATTRIBUTES, ENCRYPTS),
    Operation.RECOVER: Served(lifecycle.recover, _C.CHANGE_ATTRIBUTES, ENCRYPTS),
    Operation.ENCRYPT: Served(cipher.encrypt, _C.ENCRYPT, ENCRYPTS, 2),
    Operation.DECRYPT: Served(cipher.decrypt, _C.DECRYPT, DECRYPTS, 2),
    # A signature is to a pair of keys what a MAC is to one; the audit has one word for both.
    Operation.SIGN: Served(sign.make_signature, _C.MAC, ENCRYPTS, 2),
    Operation.SIGNATURE_VERIFY: Served(sign.verify_signature, _C.MAC, DECRYPTS, 2),
    Operation.MAC: Served(mac.mac, _C.MAC, ENCRYPTS, 2),
    Operation.MAC_VERIFY: Served(mac.mac_verify, _C.MAC, DECRYPTS, 2),
}
_SERVED[Operation.QUERY] = Served(
    query([(Operation.QUERY, 0), *((number, served.since) for number, served in _SERVED.items())]), None, DECRYPTS
)
OPERATIONS: Mapping[int, Served] = MappingProxyType(_SERVED)
