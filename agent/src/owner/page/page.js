"use strict";
// The token came behind the #: kept for this tab, and taken out of the address bar.
const key = "nightshift-token";
if (location.hash.length > 1) {
  sessionStorage.setItem(key, location.hash.slice(1));
  history.replaceState(null, "", location.pathname);
}
const element = (id) => document.getElementById(id);

async function call(path, body) {
  const headers = { Authorization: "Bearer " + (sessionStorage.getItem(key) || "") };
  const answer = await fetch(path, body === undefined ? { headers } : { method: "POST", headers, body });
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}

function bytes(n) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  while (n >= 1024 && at < units.length - 1) { n /= 1024; at += 1; }
  return (at === 0 ? n : n.toFixed(1)) + " " + units[at];
}

function time(seconds) {
  if (seconds < 1) return Math.round(seconds * 1000) + " ms";
  if (seconds < 90) return seconds.toFixed(1) + " s";
  if (seconds < 5400) return Math.round(seconds / 60) + " min";
  return (seconds / 3600).toFixed(1) + " h";
}

// Text only, never markup: names come from strangers.
function rows(id, list, none) {
  const body = element(id);
  body.replaceChildren();
  for (const cells of list.length ? list : [[none]]) {
    const row = document.createElement("tr");
    for (const [text, number] of cells.map((cell) => (Array.isArray(cell) ? cell : [cell, false]))) {
      const cell = document.createElement("td");
      cell.textContent = text;
      if (number) cell.className = "number";
      row.append(cell);
    }
    body.append(row);
  }
}

function figures(list) {
  element("figures").replaceChildren(...list.map(([name, value]) => {
    const box = document.createElement("div");
    const strong = document.createElement("b");
    strong.textContent = value;
    const label = document.createElement("span");
    label.className = "quiet";
    label.textContent = name;
    box.append(strong, label);
    return box;
  }));
}

const words = {
  Working: ["go", "Working"], Ready: ["go", "Ready, waiting for work"], Paused: ["stop", "Paused"],
  Disconnected: ["off", "No connection to the pool"], Stopping: ["off", "Stopping"],
};

async function refresh() {
  try {
    const [status, earnings, past] = await Promise.all([call("/api/status"), call("/api/earnings"), call("/api/history")]);
    const [look, word] = words[status.state] || ["off", status.state];
    element("state").className = "state " + look;
    element("word").textContent = word + (status.reason === "Paused" ? " by you" : status.reason ? " · " + status.reason : "");
    const source = status.when === "always" ? "Your use of the machine does not count here (when = \"always\")."
      : "Somebody at the machine is noticed through " + (status.idleSource || "nothing here: a server without a console") + ".";
    element("why").textContent = (status.message ? status.message + ". " : "") + source;
    element("node").textContent = status.node + " → " + status.server + " · nightshift-agent " + status.version;
    const paused = status.manual !== "no";
    element("pause").hidden = element("pause-hour").hidden = paused;
    element("resume").hidden = !paused;
    const list = [
      ["points at " + earnings.pricePerHour + " an hour", Number(earnings.pointsAtOwnPace).toFixed(6)],
      ["results", String(earnings.all.succeeded)],
      ["handed back to you in time", String(earnings.all.handedBack)],
      ["memory of workers now", bytes(status.heldBytes) + " in " + status.workers],
      ["disk for models", bytes(status.cacheBytes)],
    ];
    if (status.lastFreed) {
      const left = status.lastFreed.leftBytes ? bytes(status.lastFreed.leftBytes) + " were left" : "all of it gone";
      list.push(["freed at the last pause, " + left, bytes(status.lastFreed.beforeBytes) + " in " + status.lastFreed.milliseconds + " ms"]);
    }
    figures(list);
    const now = Date.now();
    const coming = (d) => d ? " · downloading " + Math.floor(100 * d.doneBytes / Math.max(1, d.totalBytes)) + " %" +
      (d.secondsLeft === undefined ? "" : ", " + time(d.secondsLeft) + " left") : "";
    rows("running", status.running.map((r) => [r.model + coming(r.download), r.device, r.attempt, [time((now - Date.parse(r.since)) / 1000), true]]), "Nothing.");
    rows("history", past.map((e) => [new Date(e.at).toLocaleString(), e.model, e.result, [time(e.seconds), true], e.attempt]), "Nothing yet.");
    element("note").textContent = earnings.note;
  } catch (error) {
    element("state").className = "state off";
    element("word").textContent = "No answer";
    element("why").textContent = String(error.message || error);
  }
}

async function press(path, body) {
  try { await call(path, body); } catch (error) { element("why").textContent = String(error.message || error); }
  await refresh();
}
element("pause").addEventListener("click", () => press("/api/pause", "{}"));
element("pause-hour").addEventListener("click", () => press("/api/pause", JSON.stringify({ seconds: 3600 })));
element("resume").addEventListener("click", () => press("/api/resume", ""));
refresh();
setInterval(refresh, 1000);
