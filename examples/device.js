#!/usr/bin/env node
// A device that loses no event: MQTT 5 with receipts, commands and status, a spool of files (docs/protocol.md). Needs Node 18 and mqtt.js.
//
//   ID=PB-000123 node device.js record 20 1 3.2                          files, errors, Mbit/s; after each sync, needs no network
//   ID=PB-000123 BROKER=mqtts://broker.example node device.js once       from cron; `run` instead of `once`: as a service
//
// CA_FILE, CERT_FILE, KEY_FILE, MQTT_USERNAME and MQTT_PASSWORD say how to connect. One process at a time may send a spool.
// `once` ends with 0 where every event is confirmed, with 1 where some wait, with 3 where some were rejected in this run.
//
// An event is a file in SPOOL/events. A message is a file in SPOOL/messages, with the names of its events and when to send it
// again; its own name is its Correlation Data. When its receipt came, what is rejected is in SPOOL/rejected, and all else is gone.
const crypto = require("crypto");
const fs = require("fs");
const path = require("path");
const { ID, SPOOL = "spool", BROKER = "mqtt://127.0.0.1:1883", CA_FILE, CERT_FILE, KEY_FILE, MQTT_USERNAME, MQTT_PASSWORD } = process.env;
const { BATCH = "500", RUN_S = "60", PUBACK_WAIT_S = "20", RECEIPT_WAIT_S = "600" } = process.env;
const INFLIGHT_MAX = 4; // messages without a receipt: a slow PiSync slows its devices by this
const MESSAGE_BYTES_MAX = 262144, PUBACK_WAIT_S_MAX = 600, RECEIPT_WAIT_S_MAX = 4 * 3600;
const topic = `pisync/v1/devices/${ID}`;
const at = (...parts) => path.join(SPOOL, ...parts);
for (const folder of ["events", "messages", "rejected"]) fs.mkdirSync(at(folder), { recursive: true });

function sync(name) {
  const handle = fs.openSync(name, "r");
  fs.fsyncSync(handle);
  fs.closeSync(handle);
}

function write(name, value) { // whole or not at all, also after a power cut
  const made = `${at("new")}.${process.pid}`;
  fs.writeFileSync(made, JSON.stringify(value));
  sync(made);
  fs.renameSync(made, name);
}

const read = (name, otherwise) => { try { return JSON.parse(fs.readFileSync(name)); } catch { return otherwise; } };

// Put an event on the spool. No two get one timestamp: PiSync would take the second for another copy.
function record(files, errors, speed, time = Date.now()) {
  if (time < Date.UTC(2015)) console.error("the clock is not set: PiSync keeps this event aside until somebody states its time");
  for (; ; time += 1) {
    const timestamp = new Date(time).toISOString(), name = timestamp.replaceAll(":", ""), made = `${at("new")}.${process.pid}`;
    write(made, { device_id: ID, timestamp, total_files_synced: files, total_errors: errors, internet_speed: speed });
    try {
      fs.linkSync(made, at("events", name)); // fails where the name is taken
      return sync(at("events"));
    } catch (error) {
      if (error.code !== "EEXIST") throw error;
    } finally {
      fs.unlinkSync(made);
    }
  }
}

// --- Messages: what is under way is in the spool, so that kill -9 forgets nothing

const messages = new Map(), packed = new Set();
let waiting = [], batch = Number(BATCH), someRejected = false;

function look() { // for events that `record` put there meanwhile
  waiting = fs.readdirSync(at("events")).filter((name) => !packed.has(name)).sort();
}

function load() {
  const there = new Set(fs.readdirSync(at("events")));
  for (const id of fs.readdirSync(at("messages"))) {
    const message = read(at("messages", id), { names: [] });
    // Killed while its receipt was dealt with: what is left of it goes again, in another message.
    if (!message.names.length || !message.names.every((name) => there.has(name))) fs.unlinkSync(at("messages", id));
    else hold(id, message);
  }
  look();
}

function hold(id, message) {
  messages.set(id, message);
  for (const name of message.names) packed.add(name);
}

const keep = (id) => write(at("messages", id), messages.get(id));
// When to publish again: twice as long each time, and drawn anew, so that a fleet does not march in step.
const later = (first, earlier, most) => Date.now() + Math.min(first * 2 ** Math.min(earlier, 20), Math.max(first, most)) * (500 + Math.random() * 1000);
const afterPuback = (message) => later(Number(RECEIPT_WAIT_S), message.acknowledged, RECEIPT_WAIT_S_MAX);
const withoutPuback = (earlier) => later(Number(PUBACK_WAIT_S), earlier, PUBACK_WAIT_S_MAX);

function pack() {
  while (messages.size < INFLIGHT_MAX && waiting.length) {
    const names = [];
    let size = 1;
    for (const name of waiting.slice(0, batch)) {
      size += fs.statSync(at("events", name)).size + 1;
      if (names.length && size > MESSAGE_BYTES_MAX) break;
      names.push(name);
    }
    waiting.splice(0, names.length);
    hold(crypto.randomBytes(8).toString("hex"), { names, due: 0, acknowledged: 0, unacknowledged: 0 });
  }
}

function publishDue(client) {
  pack();
  for (const [id, message] of messages) {
    if (message.due > Date.now()) continue;
    message.due = withoutPuback(message.unacknowledged++);
    keep(id); // on the disk before it is sent: after a restart the receipt still finds its events
    const bodies = message.names.map((name) => fs.readFileSync(at("events", name), "utf8"));
    const properties = { responseTopic: `${topic}/receipts`, correlationData: Buffer.from(id) };
    const puback = (error, packet) => { // it confirms nothing, but says whether a receipt may be waited for
      if (error || packet?.reasonCode === 0x10 || packet?.reasonCode >= 0x80) return console.error("not taken:", error?.message ?? packet.reasonCode);
      if (!messages.has(id)) return;
      message.due = afterPuback(message);
      message.acknowledged += 1;
      message.unacknowledged = 0;
      keep(id);
    };
    client.publish(`${topic}/sync`, bodies.length === 1 ? bodies[0] : `[${bodies.join(",")}]`, { qos: 1, properties }, puback);
  }
}

// The rejected places of a receipt with their reasons; null is the message as a whole.
function places(rejected) {
  const found = new Map();
  for (const one of rejected)
    for (const part of String(one.indexes ?? one.index).split(",")) {
      const [first, last] = part.split("-").map(Number);
      if (one.index === null) found.set(null, one);
      else for (let place = first; place <= (last ?? first); place += 1) found.set(place, one);
    }
  return found;
}

function receipt(id, content) {
  const message = messages.get(id), rejected = places(content.rejected);
  if (!message || (!rejected.has(null) && content.stored + content.duplicates + rejected.size !== message.names.length)) return; // of an earlier life
  if (["rate_exceeded", "unknown_device"].includes(rejected.get(null)?.reason)) return; // none of it was looked at: as if none had come
  const { names } = message;
  if (rejected.has(null) && names.length > 1) { // not taken as a whole: its events go again, in smaller messages
    batch = names.length >> 1;
  } else {
    const why = (place) => rejected.get(place) ?? rejected.get(null);
    names.forEach((name, place) => {
      if (!why(place)) return;
      someRejected = true;
      console.error("rejected:", name, JSON.stringify(why(place)));
      fs.renameSync(at("events", name), at("rejected", name));
    });
    sync(at("rejected"));
    names.forEach((name, place) => why(place) || fs.unlinkSync(at("events", name)));
  }
  fs.unlinkSync(at("messages", id));
  messages.delete(id);
  for (const name of names) packed.delete(name);
  if (rejected.has(null)) look();
}

function command(client, content, properties) {
  const done = read(at("commands"), []), known = content.command === "sync_now";
  if (Date.parse(content.expires) <= Date.now()) return;
  if (known && !done.includes(content.id)) {
    record(0, 0, 0); // here your device synchronises; the event of that sync is PiSync's proof
    write(at("commands"), [...done, content.id].slice(-100));
    look();
  }
  const answer = { id: content.id, state: known ? "accepted" : "refused", detail: known ? "" : "unknown" };
  client.publish(properties.responseTopic, JSON.stringify(answer), { qos: 1, properties: { correlationData: properties.correlationData } });
}

// --- One connection after another, each with a client of its own: the library's queue must not send again what this spool sends again

function send(isService) {
  let client, ready, attempts = 0, status, toldAt;
  const pending = () => waiting.length + packed.size;

  function advance() {
    if (!waiting.length && messages.size < INFLIGHT_MAX) look();
    if (!pending() && !isService) return end();
    if (!ready) return;
    if (Math.abs(Date.now() - toldAt) > 60e3) {
      const oldest = [...packed, ...waiting].sort()[0], event = oldest && read(at("events", oldest), {});
      client.publish(`${topic}/status`, status("online", { pending: pending(), oldest_pending: event?.timestamp }), { qos: 1, retain: true });
      toldAt = Date.now();
    }
    publishDue(client);
  }

  function end() {
    const leave = () => process.exit(pending() ? 1 : someRejected ? 3 : 0);
    if (!ready) leave();
    client.publish(`${topic}/status`, status("offline"), { qos: 1, retain: true }, () => client.end(false, {}, leave));
    ready = false;
    setTimeout(leave, 2000);
  }

  function connect() {
    const since = new Date().toISOString(), file = (name) => name && fs.readFileSync(name);
    [ready, toldAt] = [false, 0];
    status = (state, more) => JSON.stringify({ state, since, firmware: "example 1", ...more });
    client = require("mqtt").connect(BROKER, {
      protocolVersion: 5, clientId: ID, clean: false, keepalive: 60, reconnectPeriod: 0, queueQoSZero: false,
      username: MQTT_USERNAME, password: MQTT_PASSWORD, ca: file(CA_FILE), cert: file(CERT_FILE), key: file(KEY_FILE),
      properties: { sessionExpiryInterval: 86400 }, // receipts wait for us for a day
      will: { topic: `${topic}/status`, payload: status("offline"), qos: 1, retain: true },
    });
    const mine = client;
    mine.on("message", (name, payload, packet) => {
      try {
        if (name.endsWith("/receipts")) receipt(String(packet.properties?.correlationData), JSON.parse(payload));
        else command(mine, JSON.parse(payload), packet.properties);
        advance();
      } catch (error) { console.error(`ignored on ${name}: ${error}`); }
    });
    mine.on("connect", () => mine.subscribe([`${topic}/receipts`, `${topic}/commands`], { qos: 1 }, (error, granted) => {
      if (error || granted.some(({ qos }) => qos >= 0x80)) return mine.end(true);
      // Now receipts can come. What has no PUBACK is due at once; what has one keeps its time, and 20 s at least.
      for (const message of messages.values()) { // `min`: a clock that was set back must not make a wait longer than it can be
        const hasPuback = message.acknowledged && !message.unacknowledged;
        message.due = hasPuback ? Math.max(Math.min(message.due, Date.now() + 1500 * RECEIPT_WAIT_S_MAX), withoutPuback(0)) : 0;
      }
      [ready, attempts] = [true, 0];
      advance();
    }));
    mine.on("error", (error) => console.error(String(error)));
    mine.on("close", () => {
      ready = false;
      setTimeout(connect, Math.random() * Math.min(60, 2 ** Math.min(++attempts, 10)) * 1000);
    });
  }

  load();
  if (!pending() && !isService) process.exit(0);
  connect();
  setInterval(advance, 500);
  if (!isService) setTimeout(end, Number(RUN_S) * 1000);
}

const [action, ...figures] = process.argv.slice(2);
if (ID && action === "record" && figures.length === 3) record(...figures.map(Number));
else if (ID && (action === "once" || action === "run")) send(action === "run");
else { console.error("usage: ID=… device.js record FILES ERRORS SPEED | once | run"); process.exit(2); }
