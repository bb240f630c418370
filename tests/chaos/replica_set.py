"""A MongoDB replica set of three members on this machine, whose primary a fault can strike."""

import asyncio
from collections.abc import Iterator
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
        hosts = ",".join(f"{ports.HOST}:{member.port}" for member in self.members)
        self.url = f"mongodb://{hosts}/pisync?replicaSet={NAME}"

    async def initiate(self) -> None:
        """Make a replica set of the members, which run, and wait for its first primary."""
        configuration = {
            "_id": NAME,
            "members": [
                {"_id": number, "host": f"{ports.HOST}:{member.port}"}
                for number, member in enumerate(self.members)
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

    async def step_down(self) -> None:
        """Have the primary be none for a while; it closes its connections."""
        primary = await self.primary()
        command = {"replSetStepDown": STEPPED_DOWN_S, "secondaryCatchUpPeriodSecs": 1, "force": True}
        try:
            await _command(primary, command)
        except (AutoReconnect, OperationFailure):
            return  # another election came first, or it did so and closed this connection, too


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
