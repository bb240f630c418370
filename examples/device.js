#!/usr/bin/env node
// A device that loses no event: MQTT 5 with receipts, a spool of files (docs/protocol.md). Needs Node 18, `npm install mqtt`.
//
//   ID=PB-000123 node device.js record 20 1 3.2                          files, errors, Mbit/s
//   ID=PB-000123 BROKER=mqtts://broker.example node device.js once       one at a time; CA_FILE, MQTT_USERNAME, MQTT_PASSWORD
//
// An event is a file in SPOOL/events, and the file's name is its Correlation Data. `once` ends with 0 when nothing waits
// any more, with 1 when something does; what is rejected is told, and moved to SPOOL/rejected.
const fs = require("fs");
const path = require("path");
const { ID, SPOOL = "spool", BROKER = "mqtt://127.0.0.1:1883", RUN_S = "60" } = process.env;
const PUBACK_WAIT_S = Number(process.env.PUBACK_WAIT_S || 20), RECEIPT_WAIT_S = Number(process.env.RECEIPT_WAIT_S || 600);
const [events, sent, rejected] = ["events", "sent", "rejected"].map((name) => path.join(SPOOL, name));
const topic = `pisync/v1/devices/${ID}`;
for (const folder of [events, sent, rejected]) fs.mkdirSync(folder, { recursive: true });

function write(text) { // whole or not at all, also after a power cut
  const handle = fs.openSync(`${SPOOL}/new.${process.pid}`, "w");
  fs.writeSync(handle, text);
  fs.fsyncSync(handle);
  fs.closeSync(handle);
}

function record(files, errors, speed) {
  for (let time = Date.now(); ; time += 1) { // two events cannot have one timestamp
    const timestamp = new Date(time).toISOString(), file = path.join(events, timestamp.replaceAll(":", ""));
    write(JSON.stringify({ device_id: ID, timestamp, total_files_synced: files, total_errors: errors, internet_speed: speed }));
    try {
      return fs.linkSync(`${SPOOL}/new.${process.pid}`, file); // fails where the name is taken
    } catch (error) {
      if (error.code !== "EEXIST") throw error;
    } finally {
      fs.unlinkSync(`${SPOOL}/new.${process.pid}`);
    }
  }
}

// Twice as long each time, and drawn anew, so that a fleet does not march in step.
const waitMs = (first, earlier, most) => Math.min(first * 2 ** Math.min(earlier, 20), Math.max(first, most)) * (500 + Math.random() * 1000);

function once() {
  const ca = process.env.CA_FILE && fs.readFileSync(process.env.CA_FILE);
  const { MQTT_USERNAME: username, MQTT_PASSWORD: password } = process.env;
  const client = require("mqtt").connect(BROKER, {
    protocolVersion: 5, clientId: ID, clean: false, keepalive: 60, ca, username, password, queueQoSZero: false, resubscribe: false,
    properties: { sessionExpiryInterval: 86400 }, // receipts wait for us for a day
  });
  let ready = false;
  const state = (name) => { // when to send again, PUBACKs that it had, attempts without one since
    try { return JSON.parse(fs.readFileSync(path.join(sent, name))); } catch { return { due: 0, acknowledged: 0, attempts: 0 }; }
  };
  const keep = (name, value) => {
    write(JSON.stringify(value));
    fs.renameSync(`${SPOOL}/new.${process.pid}`, path.join(sent, name));
  };
  const waiting = () => fs.readdirSync(events).sort();
  const end = (code) => client.end(true, {}, () => process.exit(code));

  function advance() {
    const names = waiting(), underWay = new Set(fs.readdirSync(sent));
    if (!names.length) return end(0);
    if (!ready) return;
    // At most four without a receipt: those that are under way first, then the oldest others.
    for (const name of [...names.filter((one) => underWay.has(one)), ...names.filter((one) => !underWay.has(one))].slice(0, 4)) {
      const now = Date.now(), it = state(name);
      if (it.due > now && it.due < now + 6 * 3600e3) continue; // the bound: a clock may have been set back
      keep(name, { ...it, due: now + waitMs(PUBACK_WAIT_S, it.attempts, 600), attempts: it.attempts + 1 });
      const properties = { responseTopic: `${topic}/receipts`, correlationData: Buffer.from(name) };
      client.publish(`${topic}/sync`, fs.readFileSync(path.join(events, name)), { qos: 1, properties }, (error, packet) => {
        // A PUBACK confirms nothing; 0x10 says that nobody was there to store it.
        if (error || packet?.reasonCode === 0x10 || packet?.reasonCode >= 0x80 || !fs.existsSync(path.join(events, name))) return;
        keep(name, { due: Date.now() + waitMs(RECEIPT_WAIT_S, it.acknowledged, 14400), acknowledged: it.acknowledged + 1, attempts: 0 });
      });
    }
  }

  client.on("message", (_topic, payload, packet) => {
    const name = String(packet.properties?.correlationData ?? ""), file = path.join(events, name);
    let receipt;
    try { receipt = JSON.parse(payload); } catch { return; }
    if (!/^[\w.-]+$/.test(name) || !fs.existsSync(file) || !Array.isArray(receipt.rejected)) return; // of an earlier life
    if (receipt.rejected.length) { // it is the only event of its message: sending it again would not help
      console.error("rejected:", name, String(payload));
      fs.renameSync(file, path.join(rejected, name));
    } else if (receipt.stored + receipt.duplicates === 1) fs.unlinkSync(file);
    else return;
    fs.rmSync(path.join(sent, name), { force: true });
    advance();
  });
  client.on("connect", () => client.subscribe(`${topic}/receipts`, { qos: 1 }, (error) => { ready = !error; advance(); }));
  client.on("close", () => { ready = false; });
  client.on("error", (error) => console.error(String(error)));
  setInterval(advance, 500);
  setTimeout(() => end(waiting().length ? 1 : 0), Number(RUN_S) * 1000);
}

if (ID && process.argv[2] === "record") record(...process.argv.slice(3, 6).map(Number));
else if (ID && process.argv[2] === "once") once();
else { console.error("usage: ID=… device.js record FILES ERRORS SPEED | once"); process.exit(2); }
