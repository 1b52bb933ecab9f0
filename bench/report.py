"""Runs a measuring program and writes what it found; bench/run calls it.

    report.py measure WHAT TURNS COMMAND...    bench/results/WHAT.json and bench/runs/WHAT.json
    report.py readme                           bench/README.md, from what those have
    report.py check                            the form of every bench/results/WHAT.json

A program prints rows as bench/measure.rs does, or the lines of the agent's overhead test, which is run TURNS times.
"""

import datetime
import json
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
WHATS = ["placement", "state", "api", "agent", "whole", "failover"]
KEYS = ["name", "value", "unit", "peer", "peer_value", "ratio", "goal", "met"]
GOAL = re.compile(r"(ratio|value) (>=|<=) ([0-9.]+)")
OVERHEAD = re.compile(r"(?:test \S+ \.\.\. )?(.+): raw \d+/(\d+) µs, engine \d+/(\d+) µs, of it in the worker")
# More of the machine than this in other hands, and a run is marked.
QUIET = 0.05


def path(*names):
    return os.path.join(HERE, *names)


def load(*names):
    with open(path(*names), encoding="utf-8") as file:
        return json.load(file)


def save(value, *names):
    os.makedirs(os.path.dirname(path(*names)), exist_ok=True)
    with open(path(*names), "w", encoding="utf-8") as file:
        json.dump(value, file, ensure_ascii=False, indent=1)
        file.write("\n")


def output(*command):
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=HERE)
        return done.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


# --- measuring ---


def busy_seconds():
    """CPU seconds of the whole machine, interrupts included; Linux only."""
    try:
        with open("/proc/stat", encoding="ascii") as file:
            user, nice, system, _, _, irq, softirq, steal = map(int, file.readline().split()[1:9])
    except OSError:
        return None
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def children_seconds():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def memory():
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return 0


def processor():
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return output("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine()


def conditions():
    try:
        with open(path("..", ".deps", "libtorch", "build-version"), encoding="utf-8") as file:
            libtorch = file.read().strip()
    except OSError:
        libtorch = ""
    changed = output("git", "status", "--porcelain", "--untracked-files=no", "--", "..", ":!../bench")
    versions = {
        "nightshift": output("git", "rev-parse", "--short", "HEAD") + (", with uncommitted changes" if changed else ""),
        "rustc": output("rustc", "--version").removeprefix("rustc "),
        "etcd": output("etcd", "--version").partition("\n")[0].removeprefix("etcd Version: "),
        "libtorch": libtorch,
    }
    profile = os.environ.get("BENCH_PROFILE", "release")
    return {
        "profile": profile,
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "cores": os.cpu_count(),
        "processor": processor(),
        "memory_gib": round(memory() / 2**30, 1),
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "files": output("stat", "-f", "-c", "%T", tempfile.gettempdir()) or "unknown",
        "versions": {name: version for name, version in versions.items() if version},
    }


def overhead_rows(found):
    """The agent's test says medians of raw loop and engine for each input; `found`: input → pairs, one a turn."""
    rows = []
    for name, pairs in found.items():
        rate = {"name": f"{name}: through the engine, one after another", "unit": "1/s"}
        rate |= {"goal": "ratio >= 0.98" if "6 s" in name else "", "runs": [1e6 / engine for _, engine in pairs]}
        rate |= {"peer": "a raw libtorch loop", "peer_runs": [1e6 / raw for raw, _ in pairs]}
        added = {"name": f"{name}: time added a request", "unit": "µs", "peer": ""}
        # Of a long request the difference is smaller than the noise of either side.
        added["goal"] = "" if "6 s" in name else "value <= 30"
        added |= {"runs": [engine - raw for raw, engine in pairs], "peer_runs": []}
        rows += [row | {"cpu_us": [], "peer_cpu_us": []} for row in (rate, added)]
    return rows


def run(what, turns, command):
    rows, overheads = [], {}
    for _ in range(turns):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, encoding="utf-8") as process:
            for line in process.stdout:
                if line.startswith("row "):
                    rows.append(json.loads(line[4:]))
                elif match := OVERHEAD.match(line.strip()):
                    overheads.setdefault(match[1], []).append((float(match[2]), float(match[3])))
        if process.returncode != 0:
            sys.exit(f"bench: {what}: the measuring program failed ({process.returncode}); nothing was written")
    rows += overhead_rows(overheads)
    if not rows:
        sys.exit(f"bench: {what}: the measuring program printed no result that bench/report.py knows")
    return rows


def measure(what, turns, *command):
    seen = conditions() | {"load_before": os.getloadavg()}
    busy, own, began = busy_seconds(), children_seconds(), datetime.datetime.now()
    rows = run(what, int(turns), command)
    seconds = (datetime.datetime.now() - began).total_seconds()
    own = children_seconds() - own
    others = None if busy is None else max(0, busy_seconds() - busy - own) / seconds / seen["cores"]
    seen |= {"load_after": os.getloadavg(), "seconds": round(seconds), "cpu_seconds": round(own)}
    seen |= {"others": None if others is None else round(others, 3)}
    results = [result(row) for row in rows]
    check(what, results)
    save(results, "results", f"{what}.json")
    save({"conditions": seen, "rows": rows}, "runs", f"{what}.json")
    for item in results:
        print("  ".join(f"{key} {item[key]}" for key in KEYS if item[key] is not None))


def rounded(number):
    return float(f"{number:.6g}")


def result(row):
    value = rounded(statistics.median(row["runs"]))
    peer = rounded(statistics.median(row["peer_runs"])) if row["peer_runs"] else None
    made = {"name": row["name"], "value": value, "unit": row["unit"], "peer": row["peer"] or None, "peer_value": peer}
    made |= {"ratio": rounded(value / peer) if peer else None, "goal": row["goal"] or None}
    return made | {"met": met(made)}


def met(item):
    if item["goal"] is None:
        return None
    of, relation, bound = GOAL.fullmatch(item["goal"]).groups()
    return item[of] >= float(bound) if relation == ">=" else item[of] <= float(bound)


def check(what, results):
    """A list of results, each with exactly KEYS, in itself consistent."""

    def must(holds, item, why):
        if not holds:
            sys.exit(f"bench: bench/results/{what}.json: {why}: {item}")

    number = lambda value: isinstance(value, (int, float)) and not isinstance(value, bool)
    must(isinstance(results, list) and results, results, "not a list of results")
    for item in results:
        must(isinstance(item, dict) and list(item) == KEYS, item, f"its members are not {KEYS}")
        must(isinstance(item["name"], str) and isinstance(item["unit"], str), item, "name and unit are not text")
        must(number(item["value"]), item, "value is no number")
        must((item["peer"] is None) == (item["peer_value"] is None) == (item["ratio"] is None), item, "half a peer")
        if item["peer"] is not None:
            must(number(item["peer_value"]) and number(item["ratio"]), item, "the peer's is no number")
            must(abs(item["ratio"] * item["peer_value"] / item["value"] - 1) < 1e-4, item, "ratio is not value / peer_value")
        must(item["goal"] is None or GOAL.fullmatch(item["goal"]), item, "not a goal")
        must(item["goal"] is None or item[item["goal"].split()[0]] is not None, item, "a goal without a ratio")
        must(item["met"] is met(item), item, "met does not follow from goal")
    names = [item["name"] for item in results]
    must(len(set(names)) == len(names), names, "a name twice")


# --- the report ---

TITLES = {
    "placement": "Placement: one exact decision among n nodes",
    "state": "State: durable placements",
    "api": "Embedded API: creates",
    "agent": "Agent: inference through the engine",
    "whole": "Agent: inference through the whole agent",
    "failover": "Failover: how long a pool is without a leader",
}
ABOUT = {
    "placement": """\
![Time of one decision over the number of nodes](placement.svg)

`nightshift_placement::Index`, one core, exact. Every decision is about a task with demands of its own and is committed to the
index before the next; where jobs are named, 40 of them take turns, 100 tasks each, and a job's tasks share a cursor. The peer
looks at every node: 32 bit columns in the vectors that the compiler makes for plain x86-64 (SSE2), the same latency model
and score, and the integers wherever floats leave a doubt. Both must choose the same node, or the program fails. Times are CPU
times of the one thread, the clock's own 0.3 µs included; p99 is held against the scan's median. What is realistic about the
pools is assumed (`placement/examples/bench_placement/population.rs`): 16 kinds of devices, 12 regions, 300 models, 60 % of
the devices busy with 1 to 4 of 4 tasks. Memory is what the process grew by, with the ids' texts and the allocator's share.

A batch is what `Pool::plan_batch` takes for tasks that all find a place, the snapshot's comparison and each task's first
place included; beside it the same tasks one by one. The least cost is an exact assignment's (`placement/tests/batch/hungarian.rs`,
checked against OR-tools and SciPy); where devices are shared, the tests hold plans against HiGHS
(`placement/tests/batch/optimum.txt`).""",
    "state": """\
Deciding, folding and appending, each batch durable before the next; what was written is read back and compared after the
clock stopped. etcd is one real member on the same disk with its default fsync; its CPU is counted on both sides. This is the
journal alone, without API and dispatch, and a batch is one key of etcd however many placements it holds: so the goals of the
whole way (100 times kube-scheduler's rate, half of etcd's batched ceiling) are not held against it.

The loads are of `state/examples/bench_arrivals.rs`: one real etcd, and the leader's loop over it, which decides together what
arrived while an append was under way. Full load: there is always more to place. Half load: half of the rate that full load
reached in the same turn, arriving at random (Poisson). A time is from when a task was due, however late anybody looked, until
its placement is durable. Writes are counted by etcd's own revision; placements by reading the journal back. One put is
256 B, as a batch with one placement is.""",
    "api": """\
Small ConfigMaps through the Rust client, which runs in the same process: CPU and memory are those of both sides. The
kube-apiserver's figures are published ones from another run (83/s with one worker, 446 to 544/s with 32, p50 55 ms, 304 MiB);
it does not run here. The store's own rate is measured here, in turns.""",
    "agent": """\
The same model, input and thread count through the engine and its worker process, and called in the measuring process, in
turns, outputs compared bit for bit. Each figure comes from the medians of one run of the agent's overhead test, run five
times. One request at a time: forming batches is not in it, so the 98 % goal, which is told for the best batch, is held
against the longest single input; there the noise of both sides is larger than what the engine adds, also below zero.""",
    "whole": """\
![Items a second over the size of the batch](agent.svg)

Part of `make bench WHAT=agent`. A scheduler of the test sends assignments over mutual TLS on loopback; the agent admits them, fetches
each input by its digest, runs it in a sandboxed worker, writes the outcome to its outbox (an fsync) and delivers it
(`agent/tests/throughput.rs`). Beside it, in turns, a loop that decodes, stacks, calls, takes apart and encodes as the worker
does. One thread computes on either side. Agent and scheduler share the measuring process: CPU is theirs, the workers' and the
test's own together. For batches, twice as many tasks are under way as one call takes. MiniLM is all-MiniLM-L6-v2 on 32 tokens;
ResNet-50 has random weights and pictures of 224 × 224 as raw tensors; digits' network is that of `examples/digits` with random
weights, for a batch of pictures.""",
    "failover": """\
`cli/tests/cluster/takeover.rs`: one real etcd with TLS, two schedulers with a lease of 2 s, three real agents that work, a
Kubernetes API. The leader is killed (kill -9), or asked to stop (SIGTERM), 20 times each, at any phase of its lease, in the middle of a batch; the clock
stops when a placement by the next leader is read back from etcd. etcd notices an end of a lease within half a second, and a leader renews it three times in
its life, so a kill costs some 1.9 s before anybody can know of it.""",
}
MISSING = """\
## What is not measured yet

* `gateway`: nothing yet; `make bench WHAT=gateway` says so.
* The whole way of a job, from the API through etcd until a placement is read back, and its CPU against kube-scheduler's.
* placement: the quality of plans where devices are shared and waits count, against an exact optimum.
* api: a kube-apiserver in the same run, watch fan-out, memory of the server without its clients.
* Liveness of 100,000 agents; cold start; many jobs' whole lives against Kueue.
* agent: GPUs, TorchServe.
* Plots of anything but placement and the agent.
"""


def figure(number):
    if number is None:
        return "–"
    if abs(number) >= 100:
        return f"{number:,.0f}"
    return f"{number:.3g}"


def spread(median, runs):
    if median is None:
        return "–"
    return figure(median) + (f" ({figure(min(runs))} … {figure(max(runs))})" if len(runs) > 1 else "")


def table(results, rows):
    lines = ["| what | unit | value | CPU µs each | peer | peer's value | its CPU µs each | ratio | goal | met |"]
    lines.append("|---|---|---:|---:|---|---:|---:|---:|---|---|")
    by_name = {row["name"]: row for row in rows}
    for item in results:
        row = by_name[item["name"]]
        cpu = [figure(statistics.median(row[key])) if row[key] else "–" for key in ("cpu_us", "peer_cpu_us")]
        cells = [item["name"], item["unit"], spread(item["value"], row["runs"]), cpu[0], item["peer"] or "–"]
        cells += [spread(item["peer_value"], row["peer_runs"]), cpu[1], figure(item["ratio"])]
        cells += [item["goal"] or "–", {True: "yes", False: "**no**", None: "–"}[item["met"]]]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def told(seen):
    load = lambda key: " ".join(f"{value:.2f}" for value in seen[key])
    versions = ", ".join(f"{name} {version}" for name, version in seen["versions"].items())
    lines = [
        f"Measured {seen['date']} in {seen['seconds']} s ({seen['cpu_seconds']} CPU-s): {seen['cores']} cores"
        f" ({seen['processor']}), {seen['memory_gib']} GiB, {seen['kernel']}, temporary files on {seen['files']};",
        f"{versions}. Run at nice {seen['nice']}. Load average before: {load('load_before')}, after: {load('load_after')}.",
    ]
    if seen.get("profile", "release") != "release":
        lines.append(f"**Not a release build**: our code and its Rust dependencies in cargo's {seen['profile']} profile, not optimised.")
    others = seen["others"]
    if others is None:
        lines.append("What else ran on the machine is not known.")
    elif others > QUIET:
        lines.append(f"**Not a quiet machine**: {others:.0%} of all cores went to other work (and the kernel's own) while measuring.")
    else:
        lines.append(f"A quiet machine: {others:.0%} of all cores went to other work (and the kernel's own) while measuring.")
    return "\n".join(lines)


BATCH = re.compile(r"(.+): batch (\d+)")
COLOURS = ["#4477aa", "#ee6677", "#228833"]


def plot(results):
    """agent.svg: items a second over the batch, of ours and of the loop, each network's against its loop at batch 1."""
    curves = {}
    for item in results:
        if (match := BATCH.fullmatch(item["name"])) and item["peer_value"]:
            curves.setdefault(match[1], []).append((int(match[2]), item["value"], item["peer_value"]))
    curves = {name: points for name, points in curves.items() if len(points) > 1}
    if not curves:
        return
    width, height, left, bottom = 640, 360, 60, 310
    most = max(max(ours, raw) / points[0][2] for points in curves.values() for _, ours, raw in points) * 1.1
    largest = max(points[-1][0] for points in curves.values())
    x = lambda batch: left + (batch.bit_length() - 1) / max(1, largest.bit_length() - 1) * (width - left - 190)
    y = lambda times: bottom - times / most * (bottom - 30)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">']
    out.append(f'<rect width="{width}" height="{height}" fill="white"/>')
    for step in range(6):
        at = most * step / 5
        out.append(f'<line x1="{left}" x2="{width - 190}" y1="{y(at):.1f}" y2="{y(at):.1f}" stroke="#ddd"/>')
        out.append(f'<text x="{left - 6}" y="{y(at) + 4:.1f}" text-anchor="end">{at:.2g}</text>')
    for batch in sorted({batch for points in curves.values() for batch, _, _ in points}):
        out.append(f'<text x="{x(batch):.1f}" y="{bottom + 18}" text-anchor="middle">{batch}</text>')
    out.append(f'<text x="{left}" y="18">items a second, in times of the raw loop at batch 1</text>')
    out.append(f'<text x="{(width - 190 + left) / 2}" y="{height - 12}" text-anchor="middle">batch</text>')
    for at, (name, points) in enumerate(curves.items()):
        colour, base = COLOURS[at % len(COLOURS)], points[0][2]
        for of, dash in ((1, ""), (2, ' stroke-dasharray="5 4"')):
            line = " ".join(f"{x(point[0]):.1f},{y(point[of] / base):.1f}" for point in points)
            out.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
        out.append(f'<text x="{width - 180}" y="{50 + 20 * at}" fill="{colour}">{name}</text>')
    out.append(f'<text x="{width - 180}" y="{60 + 20 * len(curves)}">solid: the whole agent</text>')
    out.append(f'<text x="{width - 180}" y="{76 + 20 * len(curves)}">dashed: a raw loop</text></svg>')
    with open(path("agent.svg"), "w", encoding="utf-8") as file:
        file.write("\n".join(out) + "\n")


def readme():
    parts = [
        """\
# Benchmarks

Written by `make bench`; do not edit.

    make bench                 # everything, some minutes beside the build
    make bench WHAT=state      # one: placement, state, api, agent, failover
    bench/run --check          # the form of bench/results/

Ours and the peer run in turns in one run on one machine; a value is the median of five turns, with the least and the most
behind it, or one reading where it says "once". `ratio` is value / peer's value. CPU is user and system time a unit, of the
measuring process and those it started. A goal that is missed stands as it is; "–" under goal: none is set for it.
`results/WHAT.json` has the figures, `runs/WHAT.json` every turn and the conditions.
"""
    ]
    for what in WHATS:
        parts.append(f"## {TITLES[what]}\n")
        try:
            results, runs = load("results", f"{what}.json"), load("runs", f"{what}.json")
        except FileNotFoundError:
            door = "agent" if what == "whole" else what
            parts.append(f"Not measured yet: `make bench WHAT={door}`.\n")
            continue
        if what == "whole":
            plot(results)
        parts += [ABOUT[what] + "\n", told(runs["conditions"]) + "\n", table(results, runs["rows"]) + "\n"]
    parts.append(MISSING)
    with open(path("README.md"), "w", encoding="utf-8") as file:
        file.write("\n".join(parts))


def check_all():
    for name in sorted(os.listdir(path("results"))):
        check(name.removesuffix(".json"), load("results", name))
        print(f"bench: bench/results/{name}: ok")


if __name__ == "__main__":
    commands = {"measure": measure, "readme": readme, "check": check_all}
    commands[sys.argv[1]](*sys.argv[2:])
