"""Compare the proxy with the documented Express handlers, nginx and a bare Flask view in one run.

Run `make bench`, or `python benchmarks/bench.py --help`. It prints the medians, the ratios and the
goals, and writes them to `benchmarks/RESULTS.md` with a picture. The exit code is 1 if any request
to any of the servers failed.
"""

import argparse
import signal
import sys
import tempfile
from pathlib import Path

from api_scenarios import API_SCENARIOS
from contestants import HERE, PACKAGES, Contestants, install_express, program
from disturbance import Disturbance
from picture import picture
from production import THREADS, WORKERS
from report import Finding, document, find, machine, median_table, ratio_table, versions
from scenarios import SCENARIOS, Bench, Round, Scenario

ALL = SCENARIOS | API_SCENARIOS


def read_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4, help="whole seconds of one measurement")
    parser.add_argument(
        "--only", choices=ALL, help="one scenario; may be repeated", action="append"
    )
    parser.add_argument(
        "--threads", type=int, default=THREADS, help="threads of each of our workers"
    )
    parser.add_argument(
        "--output", type=Path, default=HERE, help="folder for RESULTS.md and results.svg"
    )
    return parser.parse_args()


def measure(
    bench: Bench, names: list[str], disturbance: Disturbance
) -> dict[str, tuple[Scenario, list[Round]]]:
    """Run the scenarios and print the medians of each when it ends."""
    results = {}
    for name in names:
        scenario = ALL[name]
        print(f"\n{scenario.title}\n", flush=True)
        disturbance.sample()
        results[name] = scenario, scenario.run(bench)
        print(median_table(results[name][1]), flush=True)
    return results


def main() -> int:
    """Run the benchmark, print the tables and write them to files."""
    arguments = read_arguments()
    for name in PACKAGES:
        program(name)
    install_express()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the exit stops the servers
    disturbance = Disturbance()
    with tempfile.TemporaryDirectory() as directory:
        bench = Bench(
            Contestants(Path(directory), arguments.threads), arguments.rounds, arguments.seconds
        )
        results = measure(bench, arguments.only or list(ALL), disturbance)
    findings: list[Finding] = [found for result in results.values() for found in find(*result)]
    print(f"\n{ratio_table(findings)}\n\n{': '.join(disturbance.row())}")
    server = f"bakrypt_proxy.server with {WORKERS} workers of {arguments.threads} threads"
    run = f"{arguments.rounds} rounds of {arguments.seconds} s, {server}"
    surroundings = [*versions(), *machine(), disturbance.row()]
    text = document(run, results, findings, bench.failures, surroundings)
    write(arguments.output, text, picture(findings))
    print(
        "\nRequests failed:" if bench.failures else "\nNo request failed.",
        *bench.failures,
        sep="\n",
    )
    return 1 if bench.failures else 0


def write(folder: Path, results: str, chart: str) -> None:
    """Write `RESULTS.md` and its chart to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "RESULTS.md").write_text(results)
    (folder / "results.svg").write_text(chart)


if __name__ == "__main__":
    sys.exit(main())
