from devstack.openbao import OpenBaoServer
from devstack.postgres import PostgresServer
from devstack.temporal import TemporalServer


def test_the_session_has_one_of_each_server(
    postgres: PostgresServer, openbao: OpenBaoServer, temporal: TemporalServer
) -> None:
    assert postgres.ready()
    assert openbao.ready()
    assert temporal.ready()
