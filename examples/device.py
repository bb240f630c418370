#!/usr/bin/env python3
"""A device that loses no event: an SQLite spool, MQTT 5 with receipts, commands and status (docs/protocol.md).

    device.py --id PB-000123 record --files 20 --errors 1 --speed 3.2   # after each sync; needs no network
    device.py --id PB-000123 --host broker.example --tls once           # from cron
    device.py --id PB-000123 --host broker.example --tls run            # as a service: pisync-device.service

`once` ends with 0 where every event is confirmed, with 1 where some wait (the next run goes on), and with 3 where some
were rejected in this run: they are in the table `rejected`. Needs Python 3.11 and paho-mqtt 2.
"""

import argparse
import fcntl
import json
import logging
import math
import random
import secrets
import sqlite3
import time
from datetime import datetime, timedelta, timezone

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

MESSAGE_BYTES_MAX, LATER = 262_144, ("rate_exceeded", "unknown_device")  # why a message is not looked at for now
INFLIGHT_MAX = 4  # messages without a receipt: a slow PiSync slows its devices by this
PUBACK_WAIT_S_MAX, RECEIPT_WAIT_S_MAX = 600, 4 * 3600  # the waits double each time
SCHEMA = """
PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
CREATE TABLE IF NOT EXISTS events (key INTEGER PRIMARY KEY, timestamp TEXT UNIQUE, body TEXT, message TEXT);
CREATE INDEX IF NOT EXISTS by_message ON events (message, key);
CREATE TABLE IF NOT EXISTS messages (id TEXT PRIMARY KEY, due REAL, puback_wait REAL, receipt_wait REAL, acked INT);
CREATE TABLE IF NOT EXISTS rejected (body TEXT, reason TEXT, detail TEXT);
CREATE TABLE IF NOT EXISTS commands (number INTEGER PRIMARY KEY, id TEXT UNIQUE);
"""


def record(spool, device_id, moment=None, *, files=0, errors=0, speed=0.0):
    """Put an event on the spool. No two get one timestamp: PiSync would take the second for another copy."""
    moment = moment or datetime.now(timezone.utc)
    if moment.year < 2015:
        logging.warning("the clock is not set: PiSync keeps this event aside until somebody states its time")
    while True:
        event = {"device_id": device_id, "timestamp": moment.isoformat(timespec="milliseconds")}
        body = json.dumps(event | {"total_files_synced": files, "total_errors": errors, "internet_speed": speed})
        insert = "INSERT OR IGNORE INTO events (timestamp, body) VALUES (?, ?)"
        if spool.execute(insert, (event["timestamp"], body)).rowcount:
            return  # whoever calls commits
        moment += timedelta(milliseconds=1)


def first(spool, query, *values):
    return (spool.execute(query, values).fetchone() or [None])[0]


def count(spool):
    return first(spool, "SELECT count(*) FROM events")


def places(rejected):
    """The rejected places of a receipt with their reasons; None is the message as a whole."""
    found = {}
    for one in rejected:
        for part in str(one.get("indexes", one["index"])).split(","):
            first, _, last = part.partition("-")
            for place in [None] if part == "None" else range(int(first), int(last or first) + 1):
                found[place] = (one["reason"], one.get("detail", ""))
    return found


class Connection(mqtt.Client):
    """One connection, with a client of its own: paho's queue must not send again what this spool sends again."""

    def __init__(self, spool, options):
        super().__init__(mqtt.CallbackAPIVersion.VERSION2, client_id=options.id, protocol=mqtt.MQTTv5)
        self.spool, self.options, self.topic = spool, options, f"pisync/v1/devices/{options.id}"
        self.ready, self.ended, self.mids, self.tell_at = False, False, {}, 0.0
        self.since = datetime.now(timezone.utc).isoformat()
        if options.username:
            self.username_pw_set(options.username, open(options.password_file).read().strip())
        if options.tls:  # the system's authorities, or your own; the broker's name is checked
            self.tls_set(options.ca_file, options.cert_file, options.key_file)
        self.will_set(self.topic + "/status", self.status("offline"), qos=1, retain=True)
        session = Properties(PacketTypes.CONNECT)
        session.SessionExpiryInterval = 86_400  # receipts wait for us for a day
        self.connect(options.host, options.port, keepalive=60, clean_start=False, properties=session)

    def on_disconnect(self, _client, _data, _flags, reason, _properties):
        self.ended = True
        logging.log(logging.WARNING if reason.is_failure else logging.INFO, "disconnected: %s", reason)

    def on_connect(self, _client, _data, _flags, reason, _properties):
        if not reason.is_failure:
            self.subscribe([(self.topic + "/receipts", 1), (self.topic + "/commands", 1)])

    def on_subscribe(self, _client, _data, _mid, reasons, _properties):
        """Now receipts can come. What has no PUBACK is due at once; what has one keeps its time, and 20 s at least."""
        if any(reason.is_failure for reason in reasons):
            return self.disconnect()  # no receipt could come
        kept = "max(min(due, :now + :longest), :now + :puback_wait * :drawn)"  # `min`: the clock may have been set back
        self.schedule(f"due = CASE WHEN acked THEN {kept} ELSE 0 END", longest=1.5 * RECEIPT_WAIT_S_MAX)
        self.ready = True

    def schedule(self, change, **values):
        """Change when messages are published again. A wait is drawn anew, so that a fleet does not march in step."""
        values |= {"now": time.time(), "drawn": random.uniform(0.5, 1.5), "puback_wait": self.options.puback_wait}
        with self.spool:
            self.spool.execute("UPDATE messages SET " + change, values)

    def on_publish(self, _client, _data, mid, reason, _properties):
        """A PUBACK. It does not confirm anything, but says whether a receipt may be waited for."""
        if reason.value == 0x10 or reason.is_failure:  # nobody was there to store it, or it was not taken
            return logging.warning("not taken: %s", reason)
        change = "due = :now + receipt_wait * :drawn, receipt_wait = min(2 * receipt_wait, :most), acked = 1"
        self.schedule(change + " WHERE id = :id", id=self.mids.pop(mid, None), most=RECEIPT_WAIT_S_MAX)

    def on_message(self, _client, _data, message):
        """Receipts and commands. paho sends the PUBACK after this returns, when the spool is written."""
        try:
            content = json.loads(message.payload)
            if message.topic.endswith("/receipts"):
                self.receipt(message.properties.CorrelationData.decode(), content)
            else:
                self.command(message.properties, content)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            logging.warning("ignored on %s: %r", message.topic, error)

    def bodies(self, message):
        query = "SELECT body FROM events WHERE message = ? ORDER BY key"
        return [body for [body] in self.spool.execute(query, (message,))]

    def receipt(self, message, content):
        bodies, rejected = self.bodies(message), places(content["rejected"])
        told = content["stored"] + content["duplicates"] + len(rejected)
        if not bodies or (rejected[None][0] in LATER if None in rejected else told != len(bodies)):
            return  # of an earlier life, not about these events, or none of them was looked at: as if none had come
        with self.spool:
            self.spool.execute("DELETE FROM messages WHERE id = ?", (message,))
            if None in rejected and len(bodies) > 1:  # not taken as a whole: its events go again, in smaller messages
                self.options.batch = len(bodies) // 2
                return self.spool.execute("UPDATE events SET message = NULL WHERE message = ?", (message,))
            for place, body in enumerate(bodies):
                if why := rejected.get(place) or rejected.get(None):
                    logging.warning("rejected, %s %s: %s", *why, body)
                    self.spool.execute("INSERT INTO rejected VALUES (?, ?, ?)", (body, *why))
            self.spool.execute("DELETE FROM events WHERE message = ?", (message,))

    def command(self, properties, content):
        if datetime.fromisoformat(content["expires"]) <= datetime.now(timezone.utc):
            return
        known = content["command"] == "sync_now"
        if known and not first(self.spool, "SELECT 1 FROM commands WHERE id = ?", content["id"]):
            # Here your device synchronises. The event of that sync is PiSync's proof.
            with self.spool:  # the event and the command's id at once: neither is there without the other
                record(self.spool, self.options.id)
                self.spool.execute("INSERT INTO commands (id) VALUES (?)", (content["id"],))
                self.spool.execute("DELETE FROM commands WHERE number <= (SELECT max(number) - 100 FROM commands)")
        answer = json.dumps({"id": content["id"], "state": "accepted" if known else "refused"})
        with_correlation = Properties(PacketTypes.PUBLISH)
        with_correlation.CorrelationData = properties.CorrelationData
        self.publish(properties.ResponseTopic, answer, qos=1, properties=with_correlation)

    def pack(self):
        """Put the oldest events into a message; on the disk before it is sent, so that its receipt finds them."""
        message, size = secrets.token_hex(8), 1
        waiting = "SELECT key, body FROM events WHERE message IS NULL ORDER BY key LIMIT ?"
        with self.spool:
            for place, (key, body) in enumerate(self.spool.execute(waiting, (self.options.batch,)).fetchall()):
                size += len(body.encode()) + 1
                if place and size > MESSAGE_BYTES_MAX:
                    break
                self.spool.execute("UPDATE events SET message = ? WHERE key = ?", (message, key))
            new = "INSERT INTO messages SELECT DISTINCT message, 0, ?, ?, 0 FROM events WHERE message = ?"
            return self.spool.execute(new, (self.options.puback_wait, self.options.receipt_wait, message)).rowcount

    def publish_due(self):
        while first(self.spool, "SELECT count(*) FROM messages") < INFLIGHT_MAX and self.pack():
            pass
        again = "due = :now + puback_wait * :drawn, puback_wait = min(2 * puback_wait, :most), acked = 0 WHERE id = :id"
        for [message] in self.spool.execute("SELECT id FROM messages WHERE due <= ?", (time.time(),)).fetchall():
            self.schedule(again, id=message, most=PUBACK_WAIT_S_MAX)
            properties = Properties(PacketTypes.PUBLISH)
            properties.ResponseTopic, properties.CorrelationData = self.topic + "/receipts", message.encode()
            bodies = self.bodies(message)
            payload = bodies[0] if len(bodies) == 1 else "[" + ",".join(bodies) + "]"
            self.mids[self.publish(self.topic + "/sync", payload, qos=1, properties=properties).mid] = message

    def status(self, state, **more):
        return json.dumps({"state": state, "since": self.since, "firmware": "example 1", **more})

    def advance(self):
        self.loop(timeout=0.5)  # ends sooner when something comes
        if self.ready and not self.ended:
            if time.monotonic() > self.tell_at:
                oldest = first(self.spool, "SELECT min(timestamp) FROM events")
                said = self.status("online", pending=count(self.spool), oldest_pending=oldest)
                self.publish(self.topic + "/status", said, qos=1, retain=True)
                self.tell_at = time.monotonic() + 60
            self.publish_due()


def run(spool, options, until):  # monotonic; infinity: as a service, also while nothing waits
    attempts = 0
    while goes_on := until == math.inf or (count(spool) and time.monotonic() < until):
        try:
            connection = Connection(spool, options)
            while goes_on and not connection.ended:
                connection.advance()
                goes_on = until == math.inf or (count(spool) and time.monotonic() < until)
            attempts = 1 if connection.ready else attempts + 1
            if not connection.ended:
                connection.publish(connection.topic + "/status", connection.status("offline"), qos=1, retain=True)
                return connection.disconnect()
        except OSError as error:
            logging.warning("no connection: %s", error)
            attempts += 1
        time.sleep(max(0, min(random.uniform(0, min(60, 2 ** min(attempts, 10))), until - time.monotonic())))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("record", "once", "run"))
    parser.add_argument("--id", required=True)
    parser.add_argument("--tls", action="store_true")
    # batch: events in a message, 500 at most; wait: seconds for which `once` waits; port: 8883 with --tls
    defaults = dict.fromkeys(("ca-file", "cert-file", "key-file", "username", "password-file"))
    defaults |= {"spool": "spool.db", "host": "127.0.0.1", "port": 0, "batch": 500, "wait": 60.0, "puback-wait": 20.0}
    defaults |= {"receipt-wait": 600.0, "files": 0, "errors": 0, "speed": 0.0}
    for name, default in defaults.items():
        parser.add_argument("--" + name, type=str if default is None else type(default), default=default)
    options = parser.parse_args()
    options.port = options.port or (8883 if options.tls else 1883)
    spool = sqlite3.connect(options.spool, timeout=30)
    spool.executescript(SCHEMA)
    if options.action == "record":
        with spool:
            record(spool, options.id, files=options.files, errors=options.errors, speed=options.speed)
        return 0
    lock = open(options.spool + ".lock", "w")
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # two senders of one client id would push each other out
    rejected = first(spool, "SELECT count(*) FROM rejected")
    run(spool, options, math.inf if options.action == "run" else time.monotonic() + options.wait)
    return 1 if count(spool) else 3 if first(spool, "SELECT count(*) FROM rejected") > rejected else 0


if __name__ == "__main__":
    raise SystemExit(main())
