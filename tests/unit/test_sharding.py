"""`pisync init-db --shard`: the commands that a mongos gets. There is none here: what answers is made up."""

from collections.abc import Mapping
from typing import Any
from unittest.mock import AsyncMock

import pytest
from bson.max_key import MaxKey
from bson.min_key import MinKey
from pymongo.errors import OperationFailure

from cli.init_db import told
from pisync import limits
from pisync.domain.identity import bucket_of
from pisync.errors import ConfigurationError, PiSyncError
from pisync.stores.mongodb import sharding
from pisync.stores.mongodb.connection import UNAUTHORIZED, MongoConnection

NAMESPACE = "pisync.sync_events"


class Found:
    """A cursor over documents."""

    def __init__(self, documents: list[dict[str, Any]]) -> None:
        self._documents = documents

    def sort(self, *_order: object) -> "Found":
        return self

    async def to_list(self) -> list[dict[str, Any]]:
        return [dict(document) for document in self._documents]


class Cluster:
    """A database behind a mongos, as `shard_database` asks it; keeps the ranges as config servers would.

    The shapes are those of the manual of MongoDB 6.0: `split` with `middle`, `moveChunk` with the `bounds` of
    a range that there is.
    """

    def __init__(self, shards: list[str], *, events: int = 0, key: dict[str, int] | None = None) -> None:
        self.name = "pisync"
        self.shards = shards
        self.leaving: list[str] = []
        self.events = events
        self.key = key
        self.sent: list[Mapping[str, Any]] = []
        self.written: list[Any] = []
        self.chunks: list[dict[str, Any]] = []

    @property
    def client(self) -> "Cluster":
        return self

    @property
    def admin(self) -> "Cluster":
        return self

    def __getitem__(self, name: str) -> Any:
        return self if name == "config" else Collection(self, name)

    async def command(self, command: str | Mapping[str, Any]) -> Mapping[str, Any]:
        command = {command: 1} if isinstance(command, str) else command
        self.sent.append(command)
        match next(iter(command)):
            case "hello":
                return {"msg": "isdbgrid"}
            case "listShards":
                leaving = [{"_id": name, "draining": True} for name in self.leaving]
                return {"shards": [*leaving, *({"_id": name} for name in reversed(self.shards))]}
            case "shardCollection":
                self._shard(command["key"])
            case "split":
                self._split(command["middle"])
            case "moveChunk":
                [chunk] = [one for one in self.chunks if [one["min"], one["max"]] == command["bounds"]]
                assert command["to"] in self.shards
                chunk["shard"] = command["to"]
            case "enableSharding":
                assert command["enableSharding"] == "pisync"
            case name:
                raise AssertionError(name)
        return {"ok": 1}

    def _shard(self, key: dict[str, int]) -> None:
        if self.key not in (None, key):
            raise OperationFailure("sharding already enabled with another key", 23)
        if self.key is None:
            self.key = key
            whole = {"min": {"_id": MinKey()}, "max": {"_id": MaxKey()}, "shard": self.shards[-1]}
            self.chunks = [whole]

    def _split(self, middle: dict[str, Any]) -> None:
        assert middle not in [chunk["min"] for chunk in self.chunks], "a boundary already"
        bucket = middle["_id"]["bucket"]
        place = sum(sharding._bucket(chunk) < bucket for chunk in self.chunks) - 1
        left = self.chunks[place]
        self.chunks.insert(place + 1, {**left, "min": middle})
        left["max"] = middle

    def names(self) -> list[str]:
        return [next(iter(command)) for command in self.sent]


class Collection:
    """One of the cluster's."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self._cluster = cluster
        self._name = name

    async def find_one(self, _asked: object, _projection: object = None) -> dict[str, Any] | None:
        if self._name == "collections":
            return {"_id": NAMESPACE, "uuid": "u"}
        return {"_id": 1} if self._cluster.events else None

    def find(self, asked: object) -> Found:
        assert (self._name, asked) == ("chunks", {"uuid": "u"})
        return Found(self._cluster.chunks)

    async def update_one(self, asked: object, change: Any, *, upsert: bool) -> None:
        assert self._name == "schema"
        assert asked == {"_id": "sharding"}
        assert upsert
        self._cluster.written += change["$push"]["runs"]["$each"]


async def sharded(cluster: Any) -> sharding.Sharded:
    return await sharding.shard_database(cluster)


async def test_an_empty_collection_is_split_at_each_bucket_and_spread() -> None:
    cluster = Cluster(["a", "b", "c"])
    done = await sharded(cluster)
    assert cluster.names()[:5] == ["hello", "listShards", "enableSharding", "shardCollection", "split"]
    assert cluster.sent[3] == {"shardCollection": NAMESPACE, "key": {"_id": 1}}
    splits = [command for command in cluster.sent if "split" in command]
    assert splits == [
        {"split": NAMESPACE, "middle": {"_id": {"bucket": bucket}}} for bucket in range(1, limits.BUCKETS)
    ]
    assert [sharding._bucket(chunk) for chunk in cluster.chunks] == list(range(limits.BUCKETS))
    held = [[chunk["shard"] for chunk in cluster.chunks].count(name) for name in cluster.shards]
    assert sorted(held) == [21, 21, 22]
    assert done.moved == cluster.names().count("moveChunk") == limits.BUCKETS - held[2]
    assert bucket_of("PB-000123") in range(limits.BUCKETS)


async def test_another_run_does_nothing_that_is_done() -> None:
    cluster = Cluster(["a", "b"])
    await sharded(cluster)
    before = len(cluster.sent)
    done = await sharded(cluster)
    assert cluster.names()[before:] == ["hello", "listShards", "enableSharding", "shardCollection"]
    assert (done.split_at, done.moved) == ((), 0)
    assert [run["moved"] for run in cluster.written] == [32, 0]
    assert cluster.written[0]["split_at"] == list(range(1, limits.BUCKETS))
    assert cluster.written[0]["shards"] == ["a", "b"]


async def test_a_run_that_was_killed_is_gone_on_with() -> None:
    cluster = Cluster(["a", "b"])
    cluster._shard({"_id": 1})
    cluster._split({"_id": {"bucket": 1}})
    cluster._split({"_id": {"bucket": 40}})
    done = await sharded(cluster)
    assert len(done.split_at) == limits.BUCKETS - 3
    assert {chunk["shard"] for chunk in cluster.chunks[:32]} == {"a"}
    assert {chunk["shard"] for chunk in cluster.chunks[32:]} == {"b"}


async def test_a_range_that_begins_within_a_bucket_is_no_split_at_it() -> None:
    """The balancer splits where there is much, at any key."""
    cluster = Cluster(["a", "b"], events=5)
    cluster._shard({"_id": 1})
    within = {"bucket": 5, "day": 20260508, "device_id": "PB-1", "timestamp": 1}
    whole = cluster.chunks[0]
    cluster.chunks = [
        {**whole, "max": {"_id": within}},
        {**whole, "min": {"_id": within}, "max": {"_id": {"device_id": ""}}},
        {**whole, "min": {"_id": {"device_id": ""}}},  # keys of version 1
    ]
    done = await sharded(cluster)
    assert done.split_at == tuple(range(1, limits.BUCKETS))


async def test_a_shard_that_is_drained_is_given_nothing() -> None:
    cluster = Cluster(["a", "b"])
    cluster.leaving = ["c"]
    assert (await sharded(cluster)).shards == ("a", "b")
    assert {chunk["shard"] for chunk in cluster.chunks} == {"a", "b"}
    with pytest.raises(PiSyncError, match="no shard that takes ranges; nothing was changed"):
        await sharded(empty := Cluster([]))
    assert empty.names() == ["hello", "listShards"]


async def test_who_may_not_shard_hears_what_that_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the one role alone: that could not write down what was done."""
    connection = MongoConnection("mongodb://127.0.0.1:1/pisync")
    refused = AsyncMock(side_effect=OperationFailure("not authorized on admin", UNAUTHORIZED))
    monkeypatch.setattr(sharding, "shard_database", refused)
    with pytest.raises(ConfigurationError, match="clusterManager on admin beside readWrite and dbAdmin"):
        await sharding.shard(connection)
    await connection.close()


async def test_where_there_are_events_the_balancer_moves_them() -> None:
    cluster = Cluster(["a", "b"], events=5)
    done = await sharded(cluster)
    assert len(done.split_at) == limits.BUCKETS - 1
    assert "moveChunk" not in cluster.names()
    assert any("balancer" in line for line in told(done))


async def test_another_shard_key_is_left_alone() -> None:
    cluster = Cluster(["a"], key={"received_at": 1})
    with pytest.raises(PiSyncError, match="not by"):
        await sharded(cluster)
    assert "split" not in cluster.names()


async def test_what_is_no_mongos_says_so() -> None:
    class Single(Cluster):
        async def command(self, command: str | Mapping[str, Any]) -> Mapping[str, Any]:
            self.sent.append({str(command): 1})
            return {"isWritablePrimary": True}

    single = Single([])
    with pytest.raises(ConfigurationError, match="names no mongos"):
        await sharded(single)
    assert single.names() == ["hello"]
    assert single.written == []
