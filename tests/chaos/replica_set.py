"""A MongoDB replica set of three members on this machine, whose primary a fault can strike."""

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from pymongo import AsyncMongoClient
from pymongo.errors import AutoReconnect, OperationFailure, PyMongoError

from local_stack import ports
from local_stack.process import ChildFailed
from local_stack.servers import MongodbServer

NAME: Final = "chaos"
MEMBERS: Final = 3
ELECTION_TIMEOUT_MS: Final = 2000
"""How long a silent primary is waited for; MongoDB's own 10 s would only make rounds longer."""
OPLOG_MB: Final = "64"
ELECTED_TIMEOUT_S: Final = 60.0
STEPPED_DOWN_S: Final = 5
SHUTDOWN_MS: Final = 500
"""How long a member that stops goes on answering reads; MongoDB's own 15 s would only make runs longer."""
LOOK_TIMEOUT_MS: Final = 500
LOOK_S: Final = 0.1

_ALREADY_INITIATED: Final = 23


class ReplicaMember(MongodbServer):
    """One member."""

    def _arguments(self) -> list[str]:
        return [
            *super()._arguments(),
            *("--replSet", NAME),
            *("--oplogSize", OPLOG_MB),
            *("--setParameter", f"shutdownTimeoutMillisForSignaledShutdown={SHUTDOWN_MS}"),
        ]


class ReplicaSet:
    """The three members, and which of them is the primary."""

    def __init__(self, directory: Path, free_ports: Iterator[int], *, logs: Path) -> None:
        self.members = [
            ReplicaMember(directory / str(number), port=next(free_ports), log=logs / f"mongod-{number}.log")
            for number in range(MEMBERS)
        ]
        self.url = _url([member.port for member in self.members])

    async def initiate(self, reached_at: Sequence[int] = ()) -> None:
        """Make a replica set of the members, which run, and wait for its first primary.

        Args:
            reached_at: the ports at which everybody reaches the members, themselves among them; none: theirs.
        """
        member_ports = reached_at or [member.port for member in self.members]
        self.url = _url(member_ports)
        configuration = {
            "_id": NAME,
            "members": [
                {"_id": number, "host": f"{ports.HOST}:{port}"} for number, port in enumerate(member_ports)
            ],
            "settings": {"electionTimeoutMillis": ELECTION_TIMEOUT_MS},
        }
        try:
            await _command(self.members[0], {"replSetInitiate": configuration})
        except OperationFailure as error:
            if error.code != _ALREADY_INITIATED:
                raise
        await self.primary()

    async def primary(self) -> ReplicaMember:
        """The member that is primary, once there is one.

        Raises:
            ChildFailed: there is none for too long.
        """
        try:
            async with asyncio.timeout(ELECTED_TIMEOUT_S):
                while True:
                    for member in self.members:
                        if await _is_primary(member):
                            return member
                    await asyncio.sleep(LOOK_S)
        except TimeoutError:
            raise ChildFailed(f"the replica set elected no primary in {ELECTED_TIMEOUT_S:g} s") from None

    async def wait_for_silent(self, election_timeout_ms: int) -> None:
        """Have members wait so long for one that is not heard from."""
        primary = await self.primary()
        configuration = (await _command(primary, {"replSetGetConfig": 1}))["config"]
        configuration["version"] += 1
        configuration["settings"]["electionTimeoutMillis"] = election_timeout_ms
        await _command(primary, {"replSetReconfig": configuration})

    def another_than(self, member: ReplicaMember) -> ReplicaMember:
        """One of the others."""
        return next(other for other in self.members if other is not member)

    async def has_all(self, member: ReplicaMember) -> bool:
        """Whether a secondary has applied all that the primary had, as that knows."""
        status = await _command(await self.primary(), {"replSetGetStatus": 1})
        reached = {each["_id"]: each["optime"]["ts"] for each in status["members"]}
        return bool(reached[self.members.index(member)] >= max(reached.values()))

    async def hold_up(self, member: ReplicaMember, *, lasting: asyncio.Event) -> None:
        """Have a secondary take nothing from the others, and go on answering reads, until told to end."""
        await _command(member, {"fsync": 1, "lock": True})
        try:
            await lasting.wait()
        finally:
            await _command(member, {"fsyncUnlock": 1})

    async def step_up(self, member: ReplicaMember) -> None:
        """Have a member be elected, whether or not the primary hears of it."""
        await _command(member, {"replSetStepUp": 1})
        async with asyncio.timeout(ELECTED_TIMEOUT_S):
            while not await _is_primary(member):
                await asyncio.sleep(LOOK_S)

    async def step_down(self) -> None:
        """Have the primary be none for a while; it closes its connections."""
        primary = await self.primary()
        command = {"replSetStepDown": STEPPED_DOWN_S, "secondaryCatchUpPeriodSecs": 1, "force": True}
        try:
            await _command(primary, command)
        except (AutoReconnect, OperationFailure):
            return  # another election came first, or it did so and closed this connection, too


def _url(member_ports: Sequence[int]) -> str:
    hosts = ",".join(f"{ports.HOST}:{port}" for port in member_ports)
    return f"mongodb://{hosts}/pisync?replicaSet={NAME}"


async def _is_primary(member: ReplicaMember) -> bool:
    try:
        return bool((await _command(member, {"hello": 1}))["isWritablePrimary"])
    except PyMongoError:
        return False


async def _command(member: ReplicaMember, command: dict[str, Any]) -> dict[str, Any]:
    async with AsyncMongoClient[dict[str, Any]](
        ports.HOST,
        member.port,
        directConnection=True,
        serverSelectionTimeoutMS=LOOK_TIMEOUT_MS * (1 if "hello" in command else 20),
        socketTimeoutMS=LOOK_TIMEOUT_MS * (1 if "hello" in command else 20),
    ) as client:
        return await client.admin.command(command)
