#!/usr/bin/env python3
"""Tables and pictures of what run.py has found.

usage: report.py RESULTS [--pictures FOLDER] [--documents ROOT]

Prints the tables. FOLDER gets computing.png and growth.png. In ROOT/README.md and ROOT/tests/benchmark/README.md the tables
with the same headings are replaced.
"""

import argparse
import json
import pathlib
import re
import statistics

import problems

IN_README = ("network", "N", "double-backward", "`auto`", "others", "job on 2 ranks", "plain write")
IN_BENCHMARK = ("network", "N", "samples", "double-backward", "`auto`", "others", "others / `auto`", "2 ranks", "job on 2 ranks", "plain write", "rows by double-backward", "passes")
STAGES = ("network", "load", "gradient", "create", "rows", "passes", "exchange", "write", "checkpoints", "checks", "all")
PEERS = ("network", "program", "ms a row", "seconds", "way", "left out")
GROWTH = ("N", "samples", "rows", "write", "job on 2 ranks")


def number(x: float | None) -> str:
    """Two digits; more of what has more before the point."""
    if x is None:
        return ""
    return f"{x:,.0f}" if x >= 10 else f"{x:.1f}" if x >= 1 else f"{x:.2g}"


def table(heading: tuple[str, ...], lines: list[tuple]) -> list[str]:
    rows = [heading, ("---",) * len(heading), *lines]
    return ["| " + " | ".join(row) + " |" if row != rows[1] else "|" + "|".join(row) + "|" for row in rows]


class Network:
    """The medians of a network's rounds."""

    def __init__(self, name: str, found: dict):
        rounds = found["rounds"]
        self.name = name
        self.title = problems.PROBLEMS[name].title
        self.found, self.n = found, found["N"]
        self.auto, self.auto_2, self.beside = (statistics.median(r[f"computing, {how}"] for r in rounds) for how in ("1", "2", "side by side"))
        self.rows = found["rows"]
        self.peers = {peer: p for peer, p in found["peers"].items() if "seconds" in p}
        self.others = min((p["seconds"] for p in self.peers.values()), default=None)
        self.write = statistics.median(r["write"] for r in rounds) if "write" in rounds[0] else None
        jobs = [r["job"] for r in rounds if "job" in r]
        self.stages = {stage: statistics.median(job[stage] for job in jobs) for stage in jobs[0]} if jobs else {}
        self.job = self.stages["all"] - self.stages["load"] if jobs else None
        self.passes, self.single = (
            sum(int(k) for k in re.findall(rf"(\d+) {what}", found["method"])) for what in ("backward passes", "rows by double-backward")
        )


def tables_of(results: dict) -> dict[tuple[str, ...], list[str]]:
    networks = [Network(name, results["networks"][name]) for name in problems.PROBLEMS if name in results["networks"]]
    short, long, stages, others = [], [], [], []
    for m in networks:
        n = f"{m.n:,}"
        end = (number(m.job), number(m.write))
        short.append((m.title, n, number(m.rows), number(m.auto), number(m.others), *end))
        ratio = f"{m.others / m.auto:.1f}" if m.others else ""
        middle = (number(m.rows), number(m.auto) + (" *" if m.found["sampled_every"] > 1 else ""), number(m.others), ratio)
        many = f"{m.found['tokens']:,} tokens" if m.found["tokens"] else f"{m.found['samples']:,}"
        long.append((f"{m.title} (`{m.name}`)", n, many, *middle, f"{m.auto / m.auto_2:.2f} of {2 * m.auto / m.beside:.2f}", *end, f"{m.single:,}", f"{m.passes:,}"))
        if m.stages:
            stages.append((m.title, *(number(m.stages.get(stage)) for stage in STAGES[1:])))
        for peer, p in m.found["peers"].items():
            failed = [f"{what}: {why}" for what, why in p.get("failed", {}).items()] + ([p["missing"]] if "missing" in p else [])
            program = " ".join(filter(None, (peer, p.get("version"))))
            others.append((m.title, program, number(p.get("ms_a_row")), number(p.get("seconds")), p.get("way", ""), "; ".join(failed)))
    tables = {IN_README: short, IN_BENCHMARK: long, STAGES: stages, PEERS: others}
    points = [point for what in ("parameters", "samples") for point in results["growth"].get(what, [])]
    tables[GROWTH] = []
    for point in points:
        rows, write, job = (statistics.median(r[stage] for r in point["rounds"]) for stage in ("rows", "write", "all"))
        tables[GROWTH].append((f"{point['N']:,}", f"{point['samples']:,}", number(rows), number(write), number(job)))
    return {heading: table(heading, lines) for heading, lines in tables.items() if lines}


def replace_tables(document: pathlib.Path, tables: dict[tuple[str, ...], list[str]]) -> None:
    lines = document.read_text().splitlines()
    for heading, new in tables.items():
        places = [k for k, line in enumerate(lines) if line.strip() == new[0]]
        if not places:
            continue
        begin = end = places[0]
        indent = lines[begin][: len(lines[begin]) - len(lines[begin].lstrip())]
        while end < len(lines) and lines[end].strip().startswith("|"):
            end += 1
        lines[begin:end] = [indent + line for line in new]
    document.write_text("\n".join(lines) + "\n")


def new_figure(columns: int, height: float):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, columns, figsize=(9, height), layout="constrained", squeeze=False)
    for axis in axes[0]:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes[0]


BLUE, GREY, ORANGE = "#1b6ca8", "#9aa5b1", "#d98c3f"


def draw_computing(results: dict, path: pathlib.Path) -> None:
    networks = {name: Network(name, results["networks"][name]) for name in problems.PROBLEMS if name in results["networks"]}
    figure, (axis,) = new_figure(1, 3.6)
    missing = float("nan")
    kinds = {
        "--method auto": (BLUE, [m.auto for m in networks.values()]),
        "--method rows": (GREY, [m.rows for m in networks.values()]),
        "best of torch.func, JAX and curvlinops": (ORANGE, [m.others or missing for m in networks.values()]),
    }
    for k, (kind, (colour, values)) in enumerate(kinds.items()):
        bars = axis.bar([i + 0.27 * (k - 1) for i in range(len(values))], values, 0.25, label=kind, color=colour)
        axis.bar_label(bars, ["" if value != value else number(value) for value in values], fontsize=7)
    axis.set_yscale("log")
    axis.margins(y=0.15)
    axis.set_xticks(range(len(networks)), [f"{name}\n{m.n:,}" for name, m in networks.items()], fontsize=8)
    axis.set_ylabel("seconds of computing, one core")
    axis.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)


def draw_growth(results: dict, path: pathlib.Path) -> None:
    """On two ranks; what the other programs took on one core is halved, and goes as N^2 and as the samples."""
    from matplotlib.ticker import NullFormatter

    figure, axes = new_figure(2, 3.4)
    limits = results["limits"]
    peak, disk = limits["multiplication"]["2"], limits["bytes_a_second"]
    styles = {"torch.func": "-", "jax": "--", "curvlinops": ":"}
    labelled = {}
    for axis, what, measured in zip(axes, ("parameters", "samples"), ("mlp", "mlp20k")):
        key = {"parameters": "N"}.get(what, what)
        points = sorted(results["growth"].get(what, []), key=lambda point: point[key])
        if not points:
            continue
        x = [point[key] for point in points]

        def draw(label: str, y: list[float], style: str, colour: str, **more) -> None:
            (labelled[label],) = axis.plot(x, y, style, color=colour, **more)

        for stage, label, style in (("all", "job", "o-"), ("rows", "its computing", "s--")):
            y = [statistics.median(r[stage] for r in point["rounds"]) for point in points]
            draw(label, y, style, BLUE, markersize=4)
        if found := results["networks"].get(measured):
            m = Network(measured, found)
            power, own = (2, m.n) if key == "N" else (1, found["samples"])
            for peer, p in m.peers.items():
                draw(f"{peer}, from one size", [p["seconds"] / 2 * (k / own) ** power for k in x], styles[peer], ORANGE, linewidth=1)
        draw(f"products at {peak / 1e9:.0f} GFlop/s", [point["N"] ** 2 * point["samples"] / peak for point in points], "-.", GREY)
        draw(f"writing at {disk / 1e9:.1f} GB/s", [4 * point["N"] ** 2 / disk for point in points], ":", GREY)
        axis.set(xscale="log", yscale="log", xlabel="parameters, 128 samples" if key == "N" else f"samples, {points[0]['N']:,} parameters")
        axis.xaxis.set_minor_formatter(NullFormatter())
    axes[0].set_ylabel("seconds on two ranks")
    figure.legend(labelled.values(), labelled.keys(), loc="outside right upper", frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=pathlib.Path)
    parser.add_argument("--pictures", type=pathlib.Path, metavar="FOLDER")
    parser.add_argument("--documents", type=pathlib.Path, metavar="ROOT")
    arguments = parser.parse_args()
    results = json.loads(arguments.results.read_text())
    tables = tables_of(results)
    print("\n\n".join("\n".join(lines) for lines in tables.values()))
    print(json.dumps(results["machine"] | results["limits"]))
    if arguments.documents:
        for document in ("README.md", "tests/benchmark/README.md"):
            replace_tables(arguments.documents / document, tables)
    if arguments.pictures:
        draw_computing(results, arguments.pictures / "computing.png")
        draw_growth(results, arguments.pictures / "growth.png")


if __name__ == "__main__":
    main()
