"""Key pairs that a client registers, active and for every use."""

from dataclasses import dataclass

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from crypto_service.kmip.codec.enums import CryptographicAlgorithm, KeyFormatType, ObjectType, Operation
from crypto_service.kmip.codec.fields import choice, number, octets, structure
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item
from tests.crypto_service.kmip.scene import VALUE, Answered, Scene, a_date, attribute

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())


@dataclass(frozen=True)
class Pair:
    private: str
    public: str


async def register(
    scene: Scene, kind: ObjectType, content: bytes | Item, key: PrivateKey, form: KeyFormatType | None = None
) -> Answered:
    """Register a key in PKCS #8 or X.509, or in another format."""
    algorithm = CryptographicAlgorithm.RSA if isinstance(key, rsa.RSAPrivateKey) else CryptographicAlgorithm.EC
    private = kind is ObjectType.PRIVATE_KEY
    block = structure(
        Tag.KEY_BLOCK,
        choice(Tag.KEY_FORMAT_TYPE, form or (KeyFormatType.PKCS_8 if private else KeyFormatType.X_509)),
        structure(Tag.KEY_VALUE, content if isinstance(content, Item) else octets(Tag.KEY_MATERIAL, content)),
        choice(Tag.CRYPTOGRAPHIC_ALGORITHM, algorithm),
        number(Tag.CRYPTOGRAPHIC_LENGTH, key.key_size),
    )
    template = structure(
        Tag.TEMPLATE_ATTRIBUTE,
        attribute("Cryptographic Usage Mask", number(VALUE, 0xF)),
        a_date("Activation Date", scene.clock.now),
    )
    held = structure(Tag.PRIVATE_KEY if private else Tag.PUBLIC_KEY, block)
    return await scene.client().ask(Operation.REGISTER, choice(Tag.OBJECT_TYPE, kind), template, held)


async def a_pair(scene: Scene, key: PrivateKey) -> Pair:
    der, no_password = serialization.Encoding.DER, serialization.NoEncryption()
    private = key.private_bytes(der, serialization.PrivateFormat.PKCS8, no_password)
    public = key.public_key().public_bytes(der, serialization.PublicFormat.SubjectPublicKeyInfo)
    return Pair(
        (await register(scene, ObjectType.PRIVATE_KEY, private, key)).object_id,
        (await register(scene, ObjectType.PUBLIC_KEY, public, key)).object_id,
    )
