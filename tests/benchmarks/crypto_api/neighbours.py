"""One tenant misuses the crypto service at full rate in each known way: what another tenant notices."""

import base64
import json
import math
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from matplotlib.figure import Figure

from crypto_service.kmip.codec import ttlv
from crypto_service.kmip.codec.enums import (
    CryptographicAlgorithm,
    DerivationMethod,
    DigitalSignatureAlgorithm,
    HashingAlgorithm,
    KeyFormatType,
    ObjectType,
    Operation,
)
from crypto_service.kmip.codec.fields import choice, number, octets, structure, text
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item
from crypto_service.kmip.objects.key_material import TAGS
from tests.benchmarks import report
from tests.benchmarks.harness import closed_loop, kmip_messages
from tests.benchmarks.harness.attacker import Attack, attacking
from tests.benchmarks.harness.open_loop import Answered, Listener, asking
from tests.benchmarks.harness.processes import family_of, read_resident
from tests.benchmarks.harness.service_fixture import connect, connected_stack, https_request, listeners
from tests.benchmarks.harness.stack import Stack
from tests.benchmarks.report import Check, Result, percentile, spread
from tests.crypto_service.kmip.messages import batch_item, message
from tests.crypto_service.kmip.scene import VALUE, attribute, creation

_TENANT, _ATTACKER = "bench-corp-1", "attack-corp-1"
_RATE = 200.0
"""Requests per second of the measured tenant, half of them to each listener."""
_CONNECTIONS = 2
_SECONDS, _QUIET_SECONDS = 60.0, 20.0
_SLOWER = 2.0
_RESIDENT_MIB = 1024.0
_OBJECTS = 10_000
_BATCH = 128
_PIPELINED = 50
_LARGEST_EXPONENT = (1 << 32) - 1
_PROTOCOL = (
    "Two tenants with one service each. The measured one sends {rate:g} requests per second over kept connections, "
    "half of them HTTPS encrypt and half KMIP Get (tests/benchmarks/harness/open_loop.py, a separate process with "
    "real-time priority where permitted, which represents another machine). The other one attacks from a separate "
    "process (attacker.py) for {seconds:g} s in each way, at full rate. Between the attacks are {quiet:g} s without "
    "one; the p99 during an attack is compared with that of the quiet periods before and after it, together. The "
    "memory is the largest resident set of a process of the service during the whole run. Without delivery means that "
    "the process that writes the audit records to the database is stopped (SIGSTOP) while invalid ciphertexts are sent."
)


def run(*, quick: bool) -> tuple[Result, Figure]:
    seconds, quiet = (4.0, 3.0) if quick else (_SECONDS, _QUIET_SECONDS)
    objects = 500 if quick else _OBJECTS
    wanted = os.environ.get("OPENKCM_BENCH_ATTACKS", "")
    with connected_stack(_TENANT, "microservice") as (stack, folder):
        stack.openkcm("enable", _ATTACKER, "--organization", "Attack Corp", "--region", "eu-west-1", "--wait")
        attacks = _attacks(stack, connect(stack, _ATTACKER, "microservice", "attack"), objects)
        chosen = {name: attack for name, attack in attacks.items() if not wanted or name in wanted.split(",")}
        with (
            _memory(stack) as resident,
            asking(_asked(stack, folder), _RATE, _CONNECTIONS, stack.folder / "seen") as seen,
        ):
            time.sleep(2.0)
            seen.new()  # the first requests include the loading of caches
            time.sleep(quiet)
            calm, during, counts = [seen.new()], {}, {}
            for name, attack in chosen.items():
                with attack() as counted:
                    time.sleep(seconds)
                    during[name] = seen.new()
                counts[name] = counted
                time.sleep(2.0)  # the attacker's connections end
                seen.new()
                time.sleep(quiet)
                calm.append(seen.new())
                print(f"  {name}: p99 {_p99(during[name]):.2f} ms, quiet {_p99(calm[-1]):.2f} ms", flush=True)
    ratios = {
        name: _p99(answers) / _p99([*before, *after])
        for (name, answers), before, after in zip(during.items(), calm, calm[1:], strict=False)
    }
    everything = [one for answers in (*calm, *during.values()) for one in answers]
    summary: dict[str, Any] = {
        "quiet (ms)": spread([_milliseconds(one) for answers in calm for one in answers]),
        **{f"{name} (ms)": spread([_milliseconds(one) for one in answers]) for name, answers in during.items()},
        **{f"{name}, p99 over quiet": round(ratio, 2) for name, ratio in ratios.items()},
        **{f"{name}, attacker": counted for name, counted in counts.items()},
        "largest resident set (MiB)": round(max(resident)),
    }
    result = Result(
        name="neighbours",
        title="A tenant beside one that misuses the service",
        quick=quick,
        protocol=_PROTOCOL.format(rate=_RATE, seconds=seconds, quiet=quiet),
        checks=[
            *(
                Check(f"p99 during {name} over quiet", round(ratio, 2), _SLOWER, "times")
                for name, ratio in ratios.items()
            ),
            Check("requests rejected or not answered", sum(one.outcome != "ok" for one in everything), 0, ""),
            Check("resident set of a process", round(max(resident)), _RESIDENT_MIB, "MiB"),
        ],
        summary=summary,
        samples={name: _some(answers) for name, answers in during.items()} | {"quiet": _some(calm[0])},
    )
    return result, _plot([one for answers in calm for one in answers], during)


def _asked(stack: Stack, folder: Path) -> Sequence[Listener]:
    """Return both listeners with their first request: encrypt, and Get."""
    return [replace(one, requests=one.requests[:1]) for one in listeners(stack, folder, encrypts=True)]


_Attacking = Callable[[], Any]


def _attacks(stack: Stack, folder: Path, objects: int) -> Mapping[str, _Attacking]:
    https, kmip = stack.settings.crypto_https_port, stack.settings.crypto_kmip_port
    client = _Client(kmip, folder)
    verification, signature, derivation = client.verification(), client.signature(), client.derivation()
    refused = https_request(
        "/v1/decrypt", {"resource": "x" * 500, "ciphertext": client.ciphertext(https)[:-4] + "AAAA"}
    )
    whole = https_request("/v1/encrypt", {"resource": "orders/1", "plaintext": "A" * 1_000_000})
    client.fill(objects)
    invalid = Attack(https, 64, _PIPELINED * refused, folder)
    return {
        "invalid ciphertexts": lambda: attacking(invalid),
        "SignatureVerify": lambda: attacking(Attack(kmip, 32, verification, folder)),
        "Sign": lambda: attacking(Attack(kmip, 32, signature, folder)),
        "PBKDF2": lambda: attacking(Attack(kmip, 32, derivation, folder)),
        "Locate": lambda: attacking(Attack(kmip, 32, _locate(), folder)),
        "headers of 1 MiB": lambda: attacking(Attack(kmip, 64, _large_header(), folder)),
        "half bodies": lambda: attacking(Attack(https, 1024, whole[: len(whole) // 2], folder, once=True)),
        "silent connections": lambda: attacking(Attack(https, 4096)),
        "no delivery": lambda: _without_delivery(stack, invalid),
    }


@contextmanager
def _without_delivery(stack: Stack, attack: Attack) -> Iterator[dict[str, int]]:
    """Attack while the shipper, which writes the audit records to the database, is stopped."""
    shipper = max(family_of(stack.pids()["crypto"]))  # started last
    os.kill(shipper, signal.SIGSTOP)
    try:
        with attacking(attack) as counts:
            yield counts
    finally:
        os.kill(shipper, signal.SIGCONT)


class _Client:
    """The attacker's service: creates what its attacks use."""

    def __init__(self, port: int, folder: Path) -> None:
        self._port, self._folder = port, folder

    def _ask(self, port: int, protocol: Any, request: bytes) -> bytes:
        client = self._folder / "client.pem", self._folder / "client.key"
        return closed_loop.one(closed_loop.Target(port, request, protocol, self._folder / "ca.pem", client))

    def _made(self, request: Item) -> str:
        return kmip_messages.found_identifier(self._ask(self._port, "ttlv", ttlv.encode(request)))

    def ciphertext(self, https: int) -> str:
        """Return a valid ciphertext."""
        body = {"resource": "x" * 500, "plaintext": base64.b64encode(bytes(64)).decode()}
        answer = self._ask(https, "http", https_request("/v1/encrypt", body))
        return str(json.loads(answer.partition(b"\r\n\r\n")[2])["ciphertext"])

    def verification(self) -> bytes:
        """Return a batch that verifies a signature with the largest key and exponent that are accepted."""
        modulus = random.getrandbits(8192) | 1 << 8191 | 1
        public = rsa.RSAPublicNumbers(_LARGEST_EXPONENT, modulus).public_key()
        der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        key = self._registered(ObjectType.PUBLIC_KEY, KeyFormatType.X_509, der, 8192)
        item = batch_item(
            Operation.SIGNATURE_VERIFY,
            text(Tag.UNIQUE_IDENTIFIER, key),
            _signature_parameters(),
            octets(Tag.DATA, b"data"),
            octets(Tag.SIGNATURE_DATA, bytes(1023) + b"\2"),
        )
        return ttlv.encode(message(*[item] * _BATCH))

    def signature(self) -> bytes:
        """Return a batch that signs with a large key."""
        private = rsa.generate_private_key(65537, 4096)
        der = private.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        key = self._registered(ObjectType.PRIVATE_KEY, KeyFormatType.PKCS_8, der, 4096)
        item = batch_item(
            Operation.SIGN, text(Tag.UNIQUE_IDENTIFIER, key), _signature_parameters(), octets(Tag.DATA, b"data")
        )
        return ttlv.encode(message(*[item] * _BATCH))

    def _registered(self, kind: ObjectType, form: KeyFormatType, der: bytes, bits: int) -> str:
        """Return the id of a new active RSA key."""
        block = structure(
            Tag.KEY_BLOCK,
            choice(Tag.KEY_FORMAT_TYPE, form),
            structure(Tag.KEY_VALUE, octets(Tag.KEY_MATERIAL, der)),
            choice(Tag.CRYPTOGRAPHIC_ALGORITHM, CryptographicAlgorithm.RSA),
            number(Tag.CRYPTOGRAPHIC_LENGTH, bits),
        )
        template = structure(Tag.TEMPLATE_ATTRIBUTE, attribute("Cryptographic Usage Mask", number(VALUE, 3)))
        held = structure(TAGS[kind], block)
        key = self._made(message(batch_item(Operation.REGISTER, choice(Tag.OBJECT_TYPE, kind), template, held)))
        self._made(message(batch_item(Operation.ACTIVATE, text(Tag.UNIQUE_IDENTIFIER, key))))
        return key

    def derivation(self) -> bytes:
        """Return a batch that derives secrets with as many rounds as are accepted."""
        key = self._made(message(batch_item(*creation(mask=0x200))))
        self._made(message(batch_item(Operation.ACTIVATE, text(Tag.UNIQUE_IDENTIFIER, key))))
        parameters = structure(
            Tag.DERIVATION_PARAMETERS,
            structure(Tag.CRYPTOGRAPHIC_PARAMETERS, choice(Tag.HASHING_ALGORITHM, HashingAlgorithm.SHA_256)),
            octets(Tag.SALT, b"salt"),
            octets(Tag.DERIVATION_DATA, b"data"),
            number(Tag.ITERATION_COUNT, 10_000_000),
        )
        template = structure(Tag.TEMPLATE_ATTRIBUTE, attribute("Cryptographic Length", number(VALUE, 256)))
        item = batch_item(
            Operation.DERIVE_KEY,
            choice(Tag.OBJECT_TYPE, ObjectType.SECRET_DATA),
            text(Tag.UNIQUE_IDENTIFIER, key),
            choice(Tag.DERIVATION_METHOD, DerivationMethod.PBKDF2),
            parameters,
            template,
        )
        return ttlv.encode(message(*[item] * _BATCH))

    def fill(self, objects: int) -> None:
        """Create objects until the service has about as many as are permitted."""
        batches = math.ceil((objects - 200) / _BATCH)
        request = ttlv.encode(message(*[batch_item(*creation())] * _BATCH))
        threads = [
            threading.Thread(target=lambda share=share: [self._ask(self._port, "ttlv", request) for _ in range(share)])
            for share in ((batches + n) // 4 for n in range(4))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def _signature_parameters() -> Item:
    return structure(
        Tag.CRYPTOGRAPHIC_PARAMETERS,
        choice(Tag.DIGITAL_SIGNATURE_ALGORITHM, DigitalSignatureAlgorithm.SHA256_WITH_RSA_ENCRYPTION),
    )


def _locate() -> bytes:
    return ttlv.encode(message(batch_item(Operation.LOCATE, number(Tag.MAXIMUM_ITEMS, 1))))


def _large_header() -> bytes:
    value = text(Tag.CLIENT_CORRELATION_VALUE, "x" * 1_000_000)
    return ttlv.encode(message(batch_item(Operation.LOCATE, number(Tag.MAXIMUM_ITEMS, 1)), header=(value,)))


@contextmanager
def _memory(stack: Stack) -> Iterator[list[float]]:
    """Yield the largest resident set of a process of the service, in MiB, read each second."""
    found, stop = [0.0], threading.Event()
    pid = stack.pids()["crypto"]

    def read() -> None:
        while not stop.wait(1.0):
            found.append(read_resident(family_of(pid)))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield found
    finally:
        stop.set()
        reader.join()


def _milliseconds(one: Answered) -> float:
    return 1000 * (one.at - one.sent)


def _p99(answers: Sequence[Answered]) -> float:
    return percentile([_milliseconds(one) for one in answers], 99)


def _some(answers: Sequence[Answered]) -> list[float]:
    """Return the latencies in milliseconds, thinned out."""
    return [round(_milliseconds(one), 3) for one in answers[:: max(1, len(answers) // 1000)]]


def _plot(calm: Sequence[Answered], during: Mapping[str, Sequence[Answered]]) -> Figure:
    figure, axes = report.canvas(9, 5)
    names = ["quiet", *during]
    rows = [calm, *during.values()]
    for place, answers in enumerate(rows):
        taken = sorted(_milliseconds(one) for one in answers)
        axes.plot(
            [percentile(taken, 50), percentile(taken, 99)], [place, place], color=report.BLUE, marker="o", label=None
        )
    limit = _SLOWER * _p99(calm)
    axes.axvline(limit, color=report.RED, ls="--", label=f"{_SLOWER:g} times the quiet p99")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set(title="responses to a tenant while another one attacks: p50 and p99", xlabel="ms", xscale="log")
    axes.legend(loc="lower right")
    return figure
