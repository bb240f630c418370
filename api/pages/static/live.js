// Keeps a page right while it is seen: a stream of small ticks says when something shown changed, and the part
// of the page that may change is asked for again, at most every 5 seconds. Without it the page is right as of
// its truth line, and links and forms work.
"use strict";
(() => {
  const AGAIN_MS = 5000;
  const SILENT_MS = 25000;
  const AGES_MS = 60000; // after so long "5 min ago" is wrong, whatever changed
  const live = document.getElementById("live");
  const stream = document.getElementById("stream");
  if (!live || !stream || !window.htmx) return;

  const stale = document.getElementById("stale");
  const note = document.getElementById("live-note");
  const pollMs = Number(stream.dataset.pollS) * 1000;
  const polls = stream.hasAttribute("data-polls");
  let version = null; // what the stream said when the page was made or asked for again
  let wanted = false;
  let again = false; // the stream is one replica's, and another one, a second behind it, may answer the page
  let askedAt = Date.now();
  let heardAt = Date.now();
  let tag = null;
  let polling = null;

  function browser() {
    // One name for all windows of this browser: it opens six connections to a host at most.
    try {
      const name = localStorage.getItem("pisync-browser") || Math.random().toString(36).slice(2);
      localStorage.setItem("pisync-browser", name);
      return name;
    } catch {
      return "";
    }
  }

  function isRead() {
    // What somebody writes, or has selected, does not change under their hands.
    const active = document.activeElement;
    const writes = live.contains(active) && /^(INPUT|TEXTAREA|SELECT)$/.test(active.tagName);
    const selection = document.getSelection();
    return writes || (selection && !selection.isCollapsed && live.contains(selection.anchorNode));
  }

  function heard() {
    heardAt = Date.now();
    stale.hidden = true;
  }

  function ask() {
    wanted = again;
    again = false;
    askedAt = Date.now();
    htmx.trigger(live, "refresh");
  }

  function poll(why) {
    if (polling) return;
    document.getElementById("live-why").textContent = why;
    note.hidden = false;
    polling = setInterval(() => { if (!document.hidden) wanted = true; }, pollMs);
  }

  setInterval(() => {
    const now = Date.now();
    if (document.hidden) return;
    if (now - askedAt > AGES_MS || (polls && now - askedAt > pollMs)) wanted = true;
    if (wanted && now - askedAt >= AGAIN_MS && !isRead()) ask();
    if (now - heardAt > SILENT_MS + (polling ? pollMs : 0) && stale.hidden) {
      document.getElementById("stale-since").textContent = new Date(heardAt).toISOString().slice(11, 19);
      stale.hidden = false;
      wanted = true;
    }
  }, 500);

  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) heardAt = Date.now();
    if (!document.hidden && polling) wanted = true;
  });

  stream.addEventListener("tick", (event) => {
    const told = JSON.parse(event.detail.data);
    heard();
    const asOf = document.getElementById("as-of");
    if (asOf) asOf.textContent = told.as_of;
    if (version !== told.version) {
      // The first tick may be of a change that came after the page was made.
      wanted = again = true;
      version = told.version;
    }
  });
  stream.addEventListener("full", () => poll("Too many pages are open to be live"));

  document.addEventListener("htmx:config:request", (event) => {
    const { ctx } = event.detail;
    if (ctx.sourceElement === stream) ctx.request.headers["PiSync-Browser"] = browser();
    if (ctx.sourceElement === live && tag) ctx.request.headers["If-None-Match"] = tag;
  });
  document.addEventListener("htmx:after:request", (event) => {
    const { ctx } = event.detail;
    if (ctx.sourceElement !== live) return;
    if (ctx.response.status === 200) tag = ctx.response.headers.get("ETag");
    if (ctx.response.status < 400) heard(); // else what was shown stays, and is told to be old
  });
  // Where the stream cannot be had at all, the page asks by itself.
  for (const name of ["htmx:response:error", "htmx:error"]) {
    document.addEventListener(name, (event) => {
      if (event.detail.ctx && event.detail.ctx.sourceElement === stream) poll("Not live");
    });
  }

  function connect() {
    if (document.hidden) {
      document.addEventListener("visibilitychange", connect, { once: true });
      return;
    }
    heardAt = Date.now();
    stream.setAttribute("hx-sse:close", "full");
    stream.setAttribute("hx-sse:connect", stream.dataset.connect);
    htmx.process(stream);
  }
  // Once htmx has looked at the page: it would connect a second time to what is there before.
  if (live.hasAttribute("data-htmx-powered")) connect();
  else document.addEventListener("htmx:after:process", () => setTimeout(connect), { once: true });
})();
