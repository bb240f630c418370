"""Who may do what at the broker: every topic, published to, subscribed to and shared, by everybody.

One table has the expected answers; all of it is asked of a real Mosquitto with TLS.
"""

import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Final

import pytest
import pytest_asyncio

from pisync.broker_access import Program
from pisync.broker_access.roles import CONTROL, CONTROL_RESPONSE
from pisync.domain import broker, topics
from tests.support.mqtt_wire import FAILURE, Refused, Shows, Wire
from tests.support.secure_broker import FORMER, KEYED, REVOKED, A, B, SecureBroker, secure_broker

OWN: Final = "own"
BRIDGE, API, WORKER = str(Program.BRIDGE), str(Program.API), str(Program.WORKER)
OBSERVER, REPLAYER, WARDEN = str(Program.OBSERVER), str(Program.REPLAYER), str(Program.WARDEN)
PIBOX: Final = "gateway"
"""Speaks for A, and for nobody else."""
TOKEN: Final = "t"  # noqa: S105 - of MQTT 3.1.1
API_ID: Final = "api-0"
GUESS: Final = "guess"
GROUPS: Final = (topics.BRIDGE_GROUP, "pisync-strays", "thief")


@dataclass(frozen=True)
class Row:
    """A topic or a filter, and who may: `own` is the device whose topic it is, else a program or the gateway.

    `shares` has those who may subscribe to it in a group.
    """

    topic: str | Callable[[str], str]
    publishes: str = ""
    subscribes: str = ""
    shares: tuple[tuple[str, str], ...] = ()

    def of(self, device_id: str) -> str:
        """The topic, of this device where it is one of devices."""
        return self.topic if isinstance(self.topic, str) else self.topic(device_id)

    def allows(self, who: str, action: str, subject: str) -> bool:
        """Whether a device (by its id) or a program may do it to the topic of the subject."""
        allowed = getattr(self, action).split()
        if who == PIBOX:
            return PIBOX in allowed and subject == A
        return who in allowed or (who == subject and OWN in allowed)

    @property
    def has_wildcards(self) -> bool:
        """Whether nothing can be published to it."""
        return "+" in self.of(A) or "#" in self.of(A) or self.of(A).startswith("$share")


def _under(end: str) -> Callable[[str], str]:
    return lambda device_id: f"{topics.PREFIX}/devices/{device_id}/{end}"


ROWS: Final = (
    # What a device has.
    Row(topics.sync, f"{OWN} {PIBOX} {API} {REPLAYER} {BRIDGE}", OBSERVER),
    Row(lambda device_id: topics.sync(device_id, TOKEN), f"{OWN} {PIBOX} {BRIDGE}", OBSERVER),
    Row(topics.receipts, BRIDGE, f"{OWN} {PIBOX} {OBSERVER}"),
    Row(_under("sync/a/b"), "", OBSERVER),
    Row(lambda device_id: topics.receipts(device_id, TOKEN), BRIDGE, OBSERVER),
    Row(lambda device_id: topics.receipts(device_id, "+"), "", f"{OWN} {PIBOX} {OBSERVER}"),
    Row(_under("receipts/#"), "", OBSERVER),
    Row(_under("receipts/a/b"), "", OBSERVER),
    Row(topics.commands, WORKER, f"{OWN} {PIBOX} {OBSERVER}"),
    Row(topics.command_replies, f"{OWN} {PIBOX}", OBSERVER),
    Row(topics.status, f"{OWN} {PIBOX}", OBSERVER),
    Row(_under("firmware"), "", OBSERVER),
    Row(_under("+"), "", OBSERVER),
    Row(_under("#"), "", OBSERVER),
    # What reaches over devices.
    Row(topics.sync("+"), "", OBSERVER),
    Row(topics.receipts("+"), "", OBSERVER),
    Row(topics.receipts("+", "+"), "", OBSERVER),
    Row(topics.commands("+"), "", OBSERVER),
    Row(topics.SYNC_FILTER, "", OBSERVER, ((topics.BRIDGE_GROUP, BRIDGE),)),
    Row(topics.SHARED_SYNC_FILTER, "", BRIDGE),
    Row(topics.FORMER_SHARED_SYNC_FILTER),
    Row(topics.COMMAND_REPLIES_FILTER, "", f"{WORKER} {OBSERVER}"),
    Row(topics.STATUS_FILTER, "", f"{WORKER} {OBSERVER}"),
    Row(topics.SYNC_OF_NO_DEVICE, f"{API} {REPLAYER} {BRIDGE}", OBSERVER),
    Row(topics.ALERTS_FILTER, "", f"{BRIDGE} {OBSERVER}"),
    Row(lambda device_id: topics.alerts(device_id, "streak"), BRIDGE, OBSERVER),
    Row(f"{topics.PREFIX}/alerts/of/others", BRIDGE, OBSERVER),
    Row(topics.api_receipts(API_ID), BRIDGE, f"{API} {REPLAYER} {OBSERVER}"),
    *(Row(each, "", BRIDGE) for each in topics.EVERYTHING_FILTERS),
    Row("pisync/#", "", "", (("pisync-strays", BRIDGE),)),
    Row("/pisync/#", "", "", (("pisync-strays", BRIDGE),)),
    Row(f"{topics.PREFIX}/#", "", OBSERVER),
    # What is nobody's.
    Row("#"),
    Row("+/+/+/+/+"),
    Row("/"),
    Row("elsewhere"),
    # The broker's own.
    *(Row(each, "", WORKER) for each in broker.MEMBERS if each != broker.DROPPED),
    Row(broker.DROPPED, "", f"{WORKER} {OBSERVER}"),
    Row(broker.UPTIME, "", f"{WORKER} {WARDEN}"),
    Row(broker.VERSION, "", WARDEN),
    Row(broker.MESSAGES_FILTER, "", BRIDGE),
    Row("$SYS/#"),
    Row("$SYS/broker/log/N"),
    Row(CONTROL, WARDEN),
    Row(CONTROL_RESPONSE, "", WARDEN),
    Row("$CONTROL/#"),
    Row("$CONTROL/other/v1"),
)
SUBJECTS: Final = (A, B, KEYED)
DEVICES: Final = {
    A: lambda secure: secure.device(A),
    B: lambda secure: secure.device(B),
    KEYED: lambda secure: secure.keyed(),
    # Known to the authority and not to the broker: it may connect, and nothing else.
    FORMER: lambda secure: secure.device(FORMER),
    # Whatever it calls itself, it is B.
    "B as A": lambda secure: secure.device(B),
    PIBOX: lambda secure: secure.gateway("BOX-1", [A]),
}
CALLS_ITSELF: Final = {"B as A": (B, A)}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def secure(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SecureBroker]:
    """One broker for all cells; they leave nothing behind."""
    async with secure_broker(tmp_path_factory.mktemp("secure")) as broker_:
        yield broker_


def _clients() -> Iterator[tuple[str, Callable[[SecureBroker], Shows]]]:
    yield from DEVICES.items()
    for program in Program:
        yield str(program), lambda secure, program=program: secure.program(program)  # type: ignore[misc]


@pytest.mark.parametrize(("name", "shows"), [pytest.param(*each, id=each[0]) for each in _clients()])
def test_each_may_do_what_the_table_says_and_nothing_else(
    name: str, shows: Callable[[SecureBroker], Shows], secure: SecureBroker
) -> None:
    who, client_id = CALLS_ITSELF.get(name, (name, f"@{name}"))
    cells = [
        (row, subject, row.of(subject))
        for row in ROWS
        for subject in (SUBJECTS if callable(row.topic) else SUBJECTS[:1])
    ]
    with Wire.connect(shows(secure), client_id) as wire:
        published = [cell for cell in cells if not cell[0].has_wildcards]
        codes = wire.publish((topic, b"") for _, _, topic in published)
        may_publish = [
            (topic, row.allows(who, "publishes", subject), code < FAILURE)
            for (row, subject, topic), code in zip(published, codes, strict=True)
        ]
        codes = wire.subscribe([topic for _, _, topic in cells])
        may_subscribe = [
            (topic, row.allows(who, "subscribes", subject), code < FAILURE)
            for (row, subject, topic), code in zip(cells, codes, strict=True)
        ]
        shared = [
            (f"$share/{group}/{topic}", (group, who) in row.shares)
            for row, _, topic in cells
            if not topic.startswith("$share")
            for group in GROUPS
        ]
        codes = wire.subscribe([topic for topic, _ in shared])
        may_share = [
            (topic, expected, code < FAILURE) for (topic, expected), code in zip(shared, codes, strict=True)
        ]
    assert [cell for cell in may_publish if cell[1] != cell[2]] == []
    assert [cell for cell in may_subscribe if cell[1] != cell[2]] == []
    assert [cell for cell in may_share if cell[1] != cell[2]] == []


def _refused() -> Iterator[tuple[str, Callable[[SecureBroker], Shows]]]:
    """Those who come by no connection at all, so that every cell of theirs is a no."""
    yield "no certificate", lambda secure: secure.nobody(secure.server.port)
    yield "no certificate, at the programs'", lambda secure: secure.nobody(secure.server.programs_port)
    yield "nobody, where passwords are asked", lambda secure: secure.nobody(secure.server.passwords_port)
    yield "revoked", lambda secure: secure.device(REVOKED)
    yield "revoked, at the programs'", lambda secure: secure.device(REVOKED, port=secure.server.programs_port)
    yield "expired", lambda secure: secure.expired(A, secure.server.port)
    yield "of another authority", lambda secure: secure.of_another_authority(A, secure.server.port)
    yield "a device at the programs'", lambda secure: secure.device(A, port=secure.server.programs_port)
    yield "a wrong password", lambda secure: secure.keyed(GUESS)
    yield "a device that has none", lambda secure: secure.keyed(username=A)
    yield "an empty password", lambda secure: secure.keyed("")
    yield "an unknown device", lambda secure: secure.keyed(username="PB-UNKNOWN")
    yield "a program's name", lambda secure: secure.keyed(username="@bridge")
    yield "a program's wrong password", lambda secure: secure.program(Program.BRIDGE, password=GUESS)


@pytest.mark.parametrize(("shows"), [pytest.param(each[1], id=each[0]) for each in _refused()])
def test_who_has_nothing_good_to_show_has_no_connection(
    shows: Callable[[SecureBroker], Shows], secure: SecureBroker
) -> None:
    with pytest.raises(Refused):
        Wire.connect(shows(secure), A)


def test_every_topic_and_filter_has_a_row() -> None:
    known = {row.of(A) for row in ROWS}
    missing = {topic for topic in _topics_of_the_protocol() if topic not in known}
    assert missing == set()


def _topics_of_the_protocol() -> Iterator[str]:
    """All that `pisync.domain.topics` makes or names, of device A, and what is read of the broker."""
    for name, value in vars(topics).items():
        if name.startswith("_"):
            continue
        for each in (value,) if isinstance(value, str) else value if isinstance(value, tuple) else ():
            if each.startswith((f"{topics.PREFIX}/", "$")):
                yield each
        if inspect.isfunction(value) and value.__module__ == topics.__name__:
            yield from _made(value)
    yield from (*broker.MEMBERS, broker.UPTIME, broker.VERSION, broker.MESSAGES_FILTER)


def _made(function: Callable[..., object]) -> Iterator[str]:
    """What a function makes of a device, a token, a rule, an api."""
    signature = inspect.signature(function)
    if signature.return_annotation is not str:
        return
    samples = {"device_id": A, "token": TOKEN, "rule": "streak", "api_id": API_ID}
    required = [each.name for each in signature.parameters.values() if each.default is each.empty]
    for given in {tuple(required), tuple(signature.parameters)}:
        made = function(**{name: samples.get(name, name) for name in given})
        if isinstance(made, str) and topics.is_known(made):
            yield made
