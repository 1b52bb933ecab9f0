// Draws the dashboard of ../nightshift.json from a Prometheus, for where there is no Grafana.
//
//   npm ci && node render.mjs --prometheus http://127.0.0.1:9090 --minutes 15 --out dashboard.png
//
// in → the dashboard's JSON, a Prometheus · out → a PNG by Chromium · invariant: panels, places, titles, units and queries are
// the JSON's; nothing is smoothed, left out or made up. A panel without data says so.
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const here = dirname(fileURLToPath(import.meta.url));
const { values: flags } = parseArgs({
  options: {
    prometheus: { type: "string", default: "http://127.0.0.1:9090" },
    minutes: { type: "string", default: "15" },
    end: { type: "string", default: String(Math.floor(Date.now() / 1000)) }, // Unix seconds
    out: { type: "string", default: "dashboard.png" },
    chromium: { type: "string", default: "chromium" },
    width: { type: "string", default: "1500" },
  },
});

const dashboard = JSON.parse(readFileSync(join(here, "../nightshift.json"), "utf8"));
const drawable = ["row", "stat", "state-timeline", "timeseries"];
for (const { type, title } of dashboard.panels) {
  if (!drawable.includes(type)) throw new Error(`${title}: panels of type ${type} are not drawn`);
}
const end = Number(flags.end);
const start = end - Number(flags.minutes) * 60;

async function ask(path, query = {}) {
  const answer = await fetch(`${flags.prometheus}/api/v1/${path}?${new URLSearchParams(query)}`);
  const body = await answer.json();
  if (body.status !== "success") throw new Error(`${path} ${JSON.stringify(query)}: ${body.error}`);
  return body.data;
}

/** "15s" or "1m30s" in seconds. */
function seconds(text) {
  const unit = { ms: 0.001, s: 1, m: 60, h: 3600, d: 86400 };
  return [...text.matchAll(/(\d+)(ms|s|m|h|d)/g)].reduce((sum, [, n, u]) => sum + n * unit[u], 0);
}

/** Grafana's variables, with "All" selected; $__rate_interval by Grafana's formula. */
function substituted(expression, scrape, step) {
  const rate = Math.max(step + scrape, 4 * scrape);
  let text = expression.replaceAll("$__rate_interval", `${rate}s`).replaceAll("$__range", `${end - start}s`);
  for (const variable of dashboard.templating.list) {
    if (variable.type === "query") text = text.replaceAll(`$${variable.name}`, variable.allValue);
  }
  return text;
}

function legend(format, labels) {
  return format.replace(/\{\{\s*(\w+)\s*\}\}/g, (_, name) => labels[name] ?? "");
}

/** The series of a panel on the times that all panels share; null where there is no sample, or it is no number. */
async function series(panel, times, scrape, step) {
  const found = [];
  for (const target of panel.targets) {
    const query = substituted(target.expr, scrape, step);
    const data = await ask("query_range", { query, start: times[0], end: times.at(-1), step });
    for (const { metric, values } of data.result) {
      const at = new Map(values.map(([time, value]) => [Math.round((time - times[0]) / step), Number(value)]));
      const points = times.map((_, index) => (Number.isFinite(at.get(index)) ? at.get(index) : null));
      if (points.some((value) => value !== null)) found.push({ name: legend(target.legendFormat, metric), points });
    }
  }
  return found.sort((a, b) => (a.name < b.name ? -1 : 1));
}

const { activeTargets } = await ask("targets", { state: "active" });
const scrape = Math.max(...activeTargets.map((target) => seconds(target.scrapeInterval)));
const step = Math.max(scrape, Math.ceil((end - start) / 240));
const times = Array.from({ length: Math.floor((end - start) / step) + 1 }, (_, index) => start + index * step);
const panels = [];
for (const panel of dashboard.panels) {
  const { type, title, gridPos, fieldConfig } = panel;
  const drawn = type === "row" ? [] : await series(panel, times, scrape, step);
  if (type !== "row" && drawn.length === 0) console.error(`no data: ${title}`);
  panels.push({ type, title, gridPos, defaults: fieldConfig?.defaults, series: drawn });
}
const { version } = await ask("status/buildinfo");
const span = `${new Date(start * 1000).toISOString().slice(0, 16).replace("T", " ")} to ${new Date(end * 1000).toISOString().slice(11, 16)} UTC`;
const note =
  `Drawn by deploy/grafana/render from deploy/grafana/nightshift.json: its panels, its queries, from Prometheus ${version}. ` +
  `Not a screenshot of Grafana. ${activeTargets.length} targets scraped every ${scrape} s, ${span}.`;
const data = { title: dashboard.title, note, times, panels };

const inline = (path) => readFileSync(join(here, path), "utf8");
const page = inline("page.html")
  .replace("/*UPLOT_CSS*/", () => inline("node_modules/uplot/dist/uPlot.min.css"))
  .replace("/*UPLOT_JS*/", () => inline("node_modules/uplot/dist/uPlot.iife.min.js"))
  .replace("/*DATA*/", () => JSON.stringify(data).replaceAll("<", "\\u003c"));
const folder = mkdtempSync(join(tmpdir(), "nightshift-render-"));
try {
  const file = join(folder, "page.html");
  writeFileSync(file, page);
  const rows = Math.max(...panels.map(({ gridPos }) => gridPos.y + gridPos.h));
  const args = ["--headless=new", "--disable-gpu", "--hide-scrollbars", `--user-data-dir=${join(folder, "profile")}`];
  if (process.getuid?.() === 0) args.push("--no-sandbox"); // Chromium refuses root otherwise; the page is our own
  args.push(`--window-size=${flags.width},${rows * 28 + 64}`, `--screenshot=${resolve(flags.out)}`, `file://${file}`);
  execFileSync(flags.chromium, args, { stdio: ["ignore", "ignore", "pipe"] });
} finally {
  rmSync(folder, { recursive: true, force: true });
}
console.log(`${flags.out}: ${panels.filter(({ type }) => type !== "row").length} panels`);
