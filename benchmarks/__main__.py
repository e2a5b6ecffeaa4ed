"""The command line: `python -m benchmarks [--quick] [--only A,B] [--record NAME]`."""

import argparse

DESCRIPTION = """
Time a learning step of every estimator against the forward pass, measure memory, and run the same task in other
libraries where they are installed. On one thread of one core, but for the sequences, the streams, the
processes and Ray, which take two; give it a quiet machine and about half an hour.
"""

SECTIONS = (
    "steps",
    "memory",
    "peers",
    "online",
    "unitwise",
    "live",
    "equilibria",
    "fpp",
    "sequences",
    "variance",
    "streams",
    "processes",
    "ray",
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=DESCRIPTION)
    parser.add_argument("--quick", action="store_true", help="fewer sizes, repeats and steps: minutes, and rough")
    parser.add_argument("--only", metavar="A,B", default=",".join(SECTIONS), help=f"some of: {', '.join(SECTIONS)}")
    parser.add_argument("--record", metavar="NAME", help="write benchmarks/results/NAME.md and NAME.json")
    parser.add_argument("--cpu", type=int, help="the core to use; the last allowed one if left out")
    options = parser.parse_args()
    sections = options.only.split(",")
    if unknown := set(sections) - set(SECTIONS):
        parser.error(f"--only takes some of {', '.join(SECTIONS)}, got {', '.join(sorted(unknown))}")

    from benchmarks import machine

    try:
        machine.hold_to_one_thread(options.cpu)
    except ValueError as error:
        parser.error(str(error))

    # JAX comes in only now that the threads are settled.
    from benchmarks import (
        equilibria,
        fpp,
        live,
        memory,
        online_cells,
        peers,
        processes,
        ray_overhead,
        report,
        sequences,
        steps,
        streams,
        targets,
        unitwise,
        variance,
    )
    from benchmarks.contest import Effort

    effort = Effort.quick() if options.quick else Effort()
    around = machine.describe()
    print(report.header(around), flush=True)
    measured = {
        "steps": lambda: steps.tables(effort, steps.QUICK_SETTINGS if options.quick else steps.SETTINGS),
        "memory": lambda: memory.tables(memory.LENGTHS[:2], 1) if options.quick else memory.tables(),
        "peers": lambda: peers.tables(effort),
        "online": lambda: online_cells.tables(effort, online_cells.SETTINGS[:: 1 + options.quick]),
        "unitwise": lambda: unitwise.tables(effort),
        "live": lambda: live.tables(effort),
        "fpp": lambda: fpp.tables(effort),
        "equilibria": lambda: equilibria.tables(effort, quick=options.quick),
        "variance": lambda: variance.tables(effort, variance.QUICK_SETTINGS if options.quick else variance.SETTINGS),
        "streams": lambda: streams.tables(events=20_000, rounds=1) if options.quick else streams.tables(),
        "processes": lambda: processes.tables(rounds=1 if options.quick else processes.ROUNDS),
        "ray": lambda: ray_overhead.tables(parts=4, seconds=1.0) if options.quick else ray_overhead.tables(),
        "sequences": lambda: sequences.tables(rounds=2) if options.quick else sequences.tables(),
    }
    tables = []
    for section in sections:
        for table in measured[section]():
            tables.append(table)
            print(table, flush=True)
            if options.record:  # what there is, if the rest is stopped
                report.record(options.record, around, tables)
    promises = targets.table(tables)
    if promises.rows:
        tables.append(promises)
        print(promises)
    if options.record:
        print("Recorded: " + ", ".join(str(path) for path in report.record(options.record, around, tables)))
        sequences.draw(tables, report.RESULTS / f"{options.record}.png")


if __name__ == "__main__":
    main()
