"""A KMIP connection that is never idle and never replaced, as of Ceph's gateway, through renewal, lock and revocation.

Its client sends only its leaf certificate.
"""

import ssl
import time
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from core.tenants.lifecycle import State, Transition
from crypto_service.kmip.codec.enums import Operation, ResultReason
from crypto_service.kmip.codec.fields import text
from crypto_service.kmip.codec.tags import Tag
from tests.contracts.authorities import p256
from tests.crypto_service.authority import key_pem, pem
from tests.crypto_service.core.world import World
from tests.crypto_service.kmip.scene import creation
from tests.crypto_service.running.process import KmipClient, Service

_LIFE = timedelta(seconds=6)


def test_busy_connection_works_through_renewal_and_lock_until_its_service_is_disconnected(
    service: Service, world: World, tmp_path: Path
):
    service.start()
    service.wait_ready()
    home = world.tenant()
    home.connect("orders")
    key, file = p256(), tmp_path / "leaf.pem"
    first = home.issue("orders", 2, key, _LIFE)
    ends = x509.load_pem_x509_certificate(first.encode()).not_valid_after_utc.timestamp()
    file.write_text(key_pem(key) + first, encoding="ascii")
    _, root = x509.load_pem_x509_certificates(home.authority.chain_pem.encode())
    tls = ssl.create_default_context(cadata=pem(root))
    tls.load_cert_chain(file)
    time.sleep(1)  # the tenant is new
    with closing(KmipClient(service.kmip, tls)) as connection:
        object_id = connection.ask(*creation()).object_id
        get = (Operation.GET, text(Tag.UNIQUE_IDENTIFIER, object_id))
        connection.ask(Operation.ACTIVATE, text(Tag.UNIQUE_IDENTIFIER, object_id))
        home.issue("orders", 3, key)
        while time.time() < ends + 2:
            assert connection.ask(*get).reason is None
            time.sleep(0.1)
        home.move(Transition.LOCK)
        locked = time.monotonic()
        while connection.ask(*get).reason is None:
            assert time.monotonic() - locked < 1
        for _ in range(20):
            assert connection.ask(*get).reason == ResultReason.PERMISSION_DENIED
        home.move(Transition.UNLOCK, State.ACTIVE)
        time.sleep(1)
        assert connection.ask(*get).reason is None
        home.disconnect("orders")
        time.sleep(1)
        with pytest.raises((ConnectionError, ssl.SSLError)):
            connection.ask(*get)
