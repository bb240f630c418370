#!/usr/bin/env python3
"""A device that loses no event: an SQLite spool, MQTT 5 with receipts, commands and status (docs/protocol.md).

    device.py --id PB-000123 record --files 20 --errors 1 --speed 3.2   # after each sync; needs no network
    device.py --id PB-000123 --host broker.example --tls once           # from cron
    device.py --id PB-000123 --host broker.example --tls run            # as a service: pisync-device.service

`once` ends with 0 where every event is confirmed, with 1 where some wait (the next run goes on), and with 3 where
some were rejected in this run: they are kept in the table `rejected`. Needs Python 3.11 and paho-mqtt 2.
"""

import argparse
import fcntl
import json
import logging
import random
import secrets
import sqlite3
import sys
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

MESSAGE_BYTES_MAX = 262_144
INFLIGHT_MAX = 4  # messages without a receipt: a slow PiSync slows its devices by this
PUBACK_WAIT_S_MAX, RECEIPT_WAIT_S_MAX = 600, 4 * 3600
SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
CREATE TABLE IF NOT EXISTS events
    (key INTEGER PRIMARY KEY AUTOINCREMENT, timestamp TEXT UNIQUE, body TEXT, message TEXT);
CREATE INDEX IF NOT EXISTS by_message ON events (message, key);
CREATE TABLE IF NOT EXISTS messages (id TEXT PRIMARY KEY, due REAL, unacknowledged INT, acknowledged INT);
CREATE TABLE IF NOT EXISTS rejected (body TEXT, reason TEXT, detail TEXT);
CREATE TABLE IF NOT EXISTS commands (number INTEGER PRIMARY KEY, id TEXT UNIQUE);
"""


def text_of(moment):
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03}Z"


def record(spool, device_id, moment=None, *, files=0, errors=0, speed=0.0):
    """Put an event on the spool. No two get one timestamp: PiSync would take the second for another copy."""
    moment = moment or datetime.now(timezone.utc)
    if moment.year < 2015:
        logging.warning("the clock is not set: PiSync keeps this event aside until somebody states its time")
    while True:
        event = {"device_id": device_id, "timestamp": text_of(moment), "total_files_synced": files}
        body = json.dumps(event | {"total_errors": errors, "internet_speed": speed})
        try:  # whoever calls commits
            return spool.execute("INSERT INTO events (timestamp, body) VALUES (?, ?)", (event["timestamp"], body))
        except sqlite3.IntegrityError:
            moment += timedelta(milliseconds=1)


def wait_s(first, earlier, most):
    """Twice as long each time, and drawn anew, so that a fleet does not march in step."""
    return min(first * 2 ** min(earlier, 20), max(first, most)) * random.uniform(0.5, 1.5)


def places(rejected):
    """The rejected places of a receipt with their reasons; None is the message as a whole."""
    found = {}
    for one in rejected:
        for part in str(one.get("indexes", one["index"])).split(","):
            first, _, last = part.partition("-")
            for place in [None] if part == "None" else range(int(first), int(last or first) + 1):
                found[place] = (one["reason"], one.get("detail", ""))
    return found


class Sender:
    """One connection after another; what is under way is in the spool, so that kill -9 forgets nothing."""

    def __init__(self, spool, options):
        self.spool, self.options, self.batch = spool, options, options.batch
        self.topic = f"pisync/v1/devices/{options.id}"
        self.rejected, self.told_at = False, 0.0

    def one(self, query, *values):
        return self.spool.execute(query, values).fetchone()

    def count(self):
        return self.one("SELECT count(*) FROM events")[0]

    def connect(self):
        """Connect with a client of its own: paho's queue must not send again what this spool sends again."""
        options = self.options
        self.ready, self.ended, self.mids, self.told = False, False, {}, None
        self.since = text_of(datetime.now(timezone.utc))
        client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=options.id, protocol=mqtt.MQTTv5)
        client.on_connect, client.on_subscribe, client.on_disconnect = self.on_connect, self.on_subscribe, self.on_end
        client.on_message, client.on_publish = self.on_message, self.on_publish
        if options.username:
            client.username_pw_set(options.username, options.password_file.read_text().strip())
        if options.tls:  # the system's authorities, or your own; the broker's name is checked
            client.tls_set(options.ca_file, options.cert_file, options.key_file)
        client.will_set(self.topic + "/status", self.status("offline"), qos=1, retain=True)
        session = Properties(PacketTypes.CONNECT)
        session.SessionExpiryInterval = 86_400  # receipts wait for us for a day
        client.connect(options.host, options.port, keepalive=60, clean_start=False, properties=session)
        return client

    def on_connect(self, client, _data, _flags, reason, _properties):
        if reason.is_failure:
            return self.refused(reason)
        client.subscribe([(self.topic + "/receipts", 1), (self.topic + "/commands", 1)])

    def on_subscribe(self, _client, _data, _mid, reasons, _properties):
        """Now receipts can come. What has no PUBACK is due at once; what has one keeps its time, and 20 s at least."""
        if any(reason.is_failure for reason in reasons):
            return self.refused(reasons)
        now = time.time()
        with self.spool:
            waiting = "SELECT id, due, acknowledged FROM messages WHERE unacknowledged = 0"
            for message, due, acknowledged in self.spool.execute(waiting).fetchall():
                # `min`: a clock that was set back must not make the wait longer than it can be.
                due = min(due, now + wait_s(self.options.receipt_wait, acknowledged, RECEIPT_WAIT_S_MAX))
                due = max(due, now + wait_s(self.options.puback_wait, 0, PUBACK_WAIT_S_MAX))
                self.spool.execute("UPDATE messages SET due = ? WHERE id = ?", (due, message))
            self.spool.execute("UPDATE messages SET due = 0 WHERE unacknowledged > 0")
        self.ready = True

    def on_end(self, _client, _data, _flags, reason, _properties):
        self.refused(reason)

    def refused(self, reason):
        self.ended = True
        logging.warning("disconnected: %s", reason)

    def on_publish(self, _client, _data, mid, reason, _properties):
        """A PUBACK. It does not confirm anything, but says whether a receipt may be waited for."""
        message = self.mids.pop(mid, None)
        with self.spool:
            if reason.value == 0x10 or reason.is_failure:  # nobody was there to store it, or it was not taken
                logging.warning("not taken: %s", reason)
            elif message:
                [acknowledged] = self.one("SELECT acknowledged FROM messages WHERE id = ?", message) or [0]
                due = time.time() + wait_s(self.options.receipt_wait, acknowledged, RECEIPT_WAIT_S_MAX)
                change = "UPDATE messages SET due = ?, unacknowledged = 0, acknowledged = acknowledged + 1 WHERE id = ?"
                self.spool.execute(change, (due, message))

    def on_message(self, client, _data, message):
        """Receipts and commands. paho sends the PUBACK after this returns, when the spool is written."""
        correlation = getattr(message.properties, "CorrelationData", b"")
        try:
            content = json.loads(message.payload)
            if message.topic.endswith("/receipts"):
                self.receipt(correlation.decode(), content)
            else:
                self.command(client, message.properties, content)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            logging.warning("ignored on %s: %r", message.topic, error)

    def bodies(self, message):
        query = "SELECT body FROM events WHERE message = ? ORDER BY key"
        return [body for [body] in self.spool.execute(query, (message,))]

    def receipt(self, message, content):
        bodies, rejected = self.bodies(message), places(content["rejected"])
        told = content["stored"] + content["duplicates"] + len(rejected)
        if not bodies or (None not in rejected and told != len(bodies)):
            return  # of an earlier life, or not about these events
        with self.spool:
            self.spool.execute("DELETE FROM messages WHERE id = ?", (message,))
            if None in rejected and len(bodies) > 1:  # not taken as a whole: its events go again, in smaller messages
                self.batch = max(1, min(self.batch, len(bodies) // 2))
                self.spool.execute("UPDATE events SET message = NULL WHERE message = ?", (message,))
                return
            for place, body in enumerate(bodies):
                why = rejected.get(place) or rejected.get(None)
                if why:
                    self.rejected = True
                    logging.warning("rejected, %s %s: %s", why[0], why[1], body)
                    self.spool.execute("INSERT INTO rejected VALUES (?, ?, ?)", (body, *why))
            self.spool.execute("DELETE FROM events WHERE message = ?", (message,))

    def command(self, client, properties, content):
        if datetime.fromisoformat(content["expires"].replace("Z", "+00:00")) <= datetime.now(timezone.utc):
            return
        known = content["command"] == "sync_now"
        if known and not self.one("SELECT 1 FROM commands WHERE id = ?", content["id"]):
            # Here your device synchronises. The event of that sync is PiSync's proof.
            with self.spool:  # the event and the command's id at once: neither is there without the other
                record(self.spool, self.options.id)
                self.spool.execute("INSERT INTO commands (id) VALUES (?)", (content["id"],))
                self.spool.execute("DELETE FROM commands WHERE number <= (SELECT max(number) - 100 FROM commands)")
        answer = {
            "id": content["id"],
            "state": "accepted" if known else "refused",
            "detail": "" if known else "unknown",
        }
        with_correlation = Properties(PacketTypes.PUBLISH)
        with_correlation.CorrelationData = properties.CorrelationData
        client.publish(properties.ResponseTopic, json.dumps(answer), qos=1, properties=with_correlation)

    def advance(self, client):
        """Put events into messages, at most four of them, and publish what is due."""
        spool, now = self.spool, time.time()
        while self.one("SELECT count(*) FROM messages")[0] < INFLIGHT_MAX:
            waiting = "SELECT key, body FROM events WHERE message IS NULL ORDER BY key LIMIT ?"
            keys, size = [], 1
            for key, body in spool.execute(waiting, (self.batch,)):
                size += len(body.encode()) + 1
                if keys and size > MESSAGE_BYTES_MAX:
                    break
                keys.append((key,))
            if not keys:
                break
            message = secrets.token_hex(8)
            with spool:  # on the disk before it is sent: after a restart the receipt still finds its events
                spool.executemany(f"UPDATE events SET message = '{message}' WHERE key = ?", keys)
                spool.execute("INSERT INTO messages VALUES (?, 0, 0, 0)", (message,))
        due = spool.execute("SELECT id, unacknowledged FROM messages WHERE due <= ?", (now,)).fetchall()
        for message, unacknowledged in due:
            bodies = self.bodies(message)
            properties = Properties(PacketTypes.PUBLISH)
            properties.ResponseTopic, properties.CorrelationData = self.topic + "/receipts", message.encode()
            again = now + wait_s(self.options.puback_wait, unacknowledged, PUBACK_WAIT_S_MAX)
            change = "UPDATE messages SET due = ?, unacknowledged = unacknowledged + 1 WHERE id = ?"
            with spool:
                spool.execute(change, (again, message))
            payload = bodies[0] if len(bodies) == 1 else "[" + ",".join(bodies) + "]"
            self.mids[client.publish(self.topic + "/sync", payload, qos=1, properties=properties).mid] = message

    def status(self, state):
        found = {"state": state, "since": self.since, "firmware": "example 1"}
        if state == "online":
            found["pending"] = self.count()
            found["oldest_pending"] = self.one("SELECT min(timestamp) FROM events")[0]
        return json.dumps(found)

    def tell_status(self, client):
        pending = self.count()
        if self.told is None or (pending != self.told and (pending == 0 or time.monotonic() > self.told_at + 60)):
            client.publish(self.topic + "/status", self.status("online"), qos=1, retain=True)
            self.told, self.told_at = pending, time.monotonic()

    def run(self, until=None):
        """Send until nothing waits or `until` (monotonic) has come; without it, for ever."""
        attempts = 0
        while until is None or (self.count() and time.monotonic() < until):
            try:
                client = self.connect()
                while not self.ended and (until is None or (self.count() and time.monotonic() < until)):
                    client.loop(timeout=0.5)  # ends sooner when something comes
                    if self.ready and not self.ended:
                        attempts = 0
                        self.advance(client)
                        self.tell_status(client)
                if not self.ended:
                    client.publish(self.topic + "/status", self.status("offline"), qos=1, retain=True)
                    client.disconnect()
                    return
            except OSError as error:
                logging.warning("no connection: %s", error)
            attempts += 1
            pause = random.uniform(0, min(60, 2 ** min(attempts, 10)))
            time.sleep(pause if until is None else max(0, min(pause, until - time.monotonic())))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("record", "once", "run"))
    parser.add_argument("--id", required=True)
    parser.add_argument("--spool", default="spool.db")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, help="1883, or 8883 with --tls")
    parser.add_argument("--tls", action="store_true")
    for name in ("--ca-file", "--cert-file", "--key-file", "--username"):
        parser.add_argument(name)
    parser.add_argument("--password-file", type=Path)
    parser.add_argument("--batch", type=int, default=500, help="events in a message, 500 at most")
    parser.add_argument("--wait", type=float, default=60, help="seconds for which `once` waits for receipts")
    parser.add_argument("--puback-wait", type=float, default=20)
    parser.add_argument("--receipt-wait", type=float, default=600)
    parser.add_argument("--files", type=int, default=0)
    parser.add_argument("--errors", type=int, default=0)
    parser.add_argument("--speed", type=float, default=0.0)
    options = parser.parse_args()
    options.port = options.port or (8883 if options.tls else 1883)
    spool = sqlite3.connect(options.spool, timeout=30)
    spool.executescript(SCHEMA)
    if options.action == "record":
        with spool:
            record(spool, options.id, files=options.files, errors=options.errors, speed=options.speed)
        return 0
    lock = open(options.spool + ".lock", "w")  # two senders of one client id would push each other out
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        logging.warning("another process sends this spool")
        return 1
    sender = Sender(spool, options)
    sender.run(None if options.action == "run" else time.monotonic() + options.wait)
    return 1 if sender.count() else 3 if sender.rejected else 0


if __name__ == "__main__":
    sys.exit(main())
