"""Other people's libraries on the same task, in the same run; one not installed is skipped, and the table says so."""

from collections.abc import Iterator
from importlib import import_module

from benchmarks import methods, steps
from benchmarks.contest import Effort, contest
from benchmarks.machine import installed
from benchmarks.report import Table
from benchmarks.task import Setting

SETTINGS = (Setting("vanilla", 20), Setting("vanilla", 128))
ONE_OPTION = (
    "Everything in JAX, peers and forward pass too, is compiled here with XLA's options for small loops "
    "(`onward.compile_small_loops_whole()`): they make all of them faster."
)
OURS = ("BPTT, chunk 1 = TBPTT(1)", "SnAp(1)", "UORO", "NoBackTrack, rank 1")


def tables(effort: Effort, settings=SETTINGS) -> Iterator[Table]:
    """One table a size."""
    for setting in settings:
        candidates = [steps.candidate(methods.named(name), setting, effort) for name in OURS]
        remarks = [ONE_OPTION]
        for package, module in (("braintrace", "peer_braintrace"), ("torch", "peer_torch")):
            if found := installed(package):
                peer = import_module(f".{module}", __package__)
                candidates += peer.candidates(setting, effort)
                remarks += [f"{package} {found}: {remark}" for remark in peer.REMARKS]
            else:
                remarks.append(f"{package} is not installed, so it is skipped; the `bench` extra brings it.")
        yield contest(f"Peers: {setting}", setting, candidates, effort, remarks)
