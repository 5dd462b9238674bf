"""Key states against a model, for any operations in any order, by any client, on any process."""

import asyncio
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule, run_state_machine_as_test

from crypto_service.kmip.codec.enums import Operation, ResultReason, State
from crypto_service.kmip.codec.fields import octets
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item
from database.postgres.change_feed import tenant_hash
from tests.crypto_service.kmip.scene import Answered, Base, Client, Scene, a_date, cbc


@dataclass
class Key:
    """The state of a key in the model."""

    object_id: str
    state: State = State.PRE_ACTIVE
    sealed: tuple[bytes, bytes] | None = None
    deactivation: float | None = None
    history: list[State] = field(default_factory=list)


class KeyLife(RuleBasedStateMachine):
    base: Base

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.scene = self.runner.run(self._scene())
        self.keys_made: list[Key] = []

    async def _scene(self) -> Scene:
        return Scene(self.base)

    def teardown(self) -> None:
        self.scene.close()
        self.runner.close()

    keys = Bundle("keys")
    processes = st.sampled_from(["one", "two"])

    def _client(self, process: str, **who: str) -> Client:
        # All changes are notified first; the behaviour before a notification is the subject of test_store.
        for each in (self.scene.one, self.scene.two):
            each.changes.tell(tenant_hash(self.scene.tenant))
        return self.scene.client(process=getattr(self.scene, process), **who)

    def _ask(self, process: str, operation: Operation, key: Key, *payload: Item) -> Answered:
        return self.runner.run(self._client(process).about(operation, key.object_id, *payload))

    def _now(self, key: Key) -> State:
        due = key.deactivation is not None and key.deactivation <= self.scene.clock.now
        if key.state is State.ACTIVE and due:
            key.state = State.DEACTIVATED
        return key.state

    @rule(target=keys, process=processes)
    def create(self, process: str) -> Key:
        key = Key(self.runner.run(self._client(process).create()))
        self.keys_made.append(key)
        return key

    @rule(key=keys, process=processes)
    def activate(self, key: Key, process: str) -> None:
        answer = self._ask(process, Operation.ACTIVATE, key)
        assert (answer.reason is None) == (self._now(key) is State.PRE_ACTIVE)
        if answer.reason is None:
            key.state = State.ACTIVE

    @rule(key=keys, process=processes, compromised=st.booleans())
    def revoke(self, key: Key, process: str, compromised: bool) -> None:  # noqa: FBT001 - hypothesis names it
        answer = self.runner.run(self._client(process).revoke(key.object_id, 2 if compromised else 1))
        alive = (State.PRE_ACTIVE, State.ACTIVE, State.DEACTIVATED, State.COMPROMISED)
        allowed = alive if compromised else alive[:-1]
        assert (answer.reason is None) == (self._now(key) in allowed)
        if answer.reason is None:
            key.state = State.COMPROMISED if compromised else State.DEACTIVATED

    @rule(key=keys, process=processes)
    def destroy(self, key: Key, process: str) -> None:
        answer = self._ask(process, Operation.DESTROY, key)
        after = {
            State.PRE_ACTIVE: State.DESTROYED,
            State.DEACTIVATED: State.DESTROYED,
            State.COMPROMISED: State.DESTROYED_COMPROMISED,
        }.get(self._now(key))
        assert (answer.reason is None) == (after is not None)
        key.state = after or key.state

    @rule(key=keys, process=processes, seconds=st.integers(-10, 10))
    def set_deactivation_date(self, key: Key, process: str, seconds: int) -> None:
        when = self.scene.clock.now + seconds
        operation = Operation.ADD_ATTRIBUTE if key.deactivation is None else Operation.MODIFY_ATTRIBUTE
        answer = self._ask(process, operation, key, a_date("Deactivation Date", when))
        may = self._now(key) in (State.PRE_ACTIVE, State.ACTIVE)
        if may:
            # After a revocation, which sets the date itself, the date cannot be set.
            assert answer.reason is None
            key.deactivation = when
        else:
            assert answer.reason is not None

    @rule(seconds=st.integers(1, 15))
    def time_passes(self, seconds: int) -> None:
        self.scene.clock.now += seconds

    @rule(key=keys, process=processes)
    def get(self, key: Key, process: str) -> None:
        answer = self.runner.run(self._client(process).get(key.object_id))
        assert (answer.reason is None) == (self._now(key) in (State.PRE_ACTIVE, State.ACTIVE))

    @rule(key=keys, process=processes)
    def encrypt(self, key: Key, process: str) -> None:
        answer = self.runner.run(self._client(process).encrypt(key.object_id, b"the data"))
        assert (answer.reason is None) == (self._now(key) is State.ACTIVE)
        if answer.reason is None:
            key.sealed = answer.value(Tag.IV_COUNTER_NONCE), answer.value(Tag.DATA)

    @rule(key=keys, process=processes)
    def decrypt(self, key: Key, process: str) -> None:
        nonce, data = key.sealed or (bytes(16), bytes(16))
        payload = cbc(), octets(Tag.DATA, data), octets(Tag.IV_COUNTER_NONCE, nonce)
        answer = self._ask(process, Operation.DECRYPT, key, *payload)
        if self._now(key) is not State.ACTIVE:
            assert answer.reason in (ResultReason.PERMISSION_DENIED, ResultReason.ITEM_NOT_FOUND)
        elif key.sealed is not None:
            assert answer.value(Tag.DATA) == b"the data"

    @rule(key=keys, process=processes, who=st.sampled_from(["service", "tenant"]))
    def other_client_tries(self, key: Key, process: str, who: str) -> None:
        other = {"service": "billing"} if who == "service" else {"tenant_id": self.scene.other}
        other_client = self._client(process, **other)
        for answer in (
            self.runner.run(other_client.get(key.object_id)),
            self.runner.run(other_client.revoke(key.object_id, 2)),
            self.runner.run(other_client.about(Operation.DESTROY, key.object_id)),
            self.runner.run(other_client.encrypt(key.object_id, b"data")),
        ):
            assert answer.reason is ResultReason.ITEM_NOT_FOUND
        assert self.runner.run(other_client.ask(Operation.LOCATE)).ids == []

    @rule(key=consumes(keys), process=processes)
    def rekey(self, key: Key, process: str) -> None:
        answer = self._ask(process, Operation.REKEY, key)
        gone = self._now(key) in (State.DESTROYED, State.DESTROYED_COMPROMISED)
        assert (answer.reason is None) == (not gone)

    @invariant()
    def every_key_state_matches_the_model_and_never_moves_back(self) -> None:
        for key in self.keys_made:
            state = self.runner.run(self._client("one").state(key.object_id))
            assert state == self._now(key)
            if not key.history or key.history[-1] != state:
                key.history.append(State(state))
            order = [list(State).index(each) for each in key.history]
            assert order == sorted(order)


@pytest.mark.parametrize("examples", [3, pytest.param(25, marks=pytest.mark.full)])
def test_key_states_match_the_model(base: Base, examples: int):
    KeyLife.base = base
    checks = list(HealthCheck)
    short = settings(max_examples=examples, stateful_step_count=25, deadline=None, suppress_health_check=checks)
    run_state_machine_as_test(KeyLife, settings=short)
