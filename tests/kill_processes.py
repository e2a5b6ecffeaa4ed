"""Kills one of two processes of a training ten times, and checks what the other does and what comes out.

`python -m tests.kill_processes [KILLS]`: each time, one process is killed at a random moment with SIGKILL. The other
must end within 60 seconds with a sentence; if it was process 0 that died, JAX says the sentence. Then both begin
again. The numbers must in the end be those of two processes that were never killed. Four processes go on from a
checkpoint, too. And four processes find all that one process on four devices finds, to the last bit; with 0 kills,
that is all.
"""

import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from tests.processes import ended, started

SENTENCES = ("another process of this training has ended", "another task died")
EPOCHS = "40"
PATIENCE = 900.0  # seconds for a training that nobody kills


def written(folder: Path) -> int:
    """When the checkpoint was written last; 0 if there is none."""
    path = folder / "checkpoint.npz"
    return path.stat().st_mtime_ns if path.exists() else 0


def different_with_four(work: Path) -> list[str]:
    """What four processes of one device find otherwise than one process of four."""
    together, alone = work / "four", work / "of four devices"
    for folder in (together, alone):
        folder.mkdir()
    for code, said in (*ended(started(together, 4), PATIENCE), *ended(started(alone, 1, devices=4), PATIENCE)):
        assert code == 0, said
    found, expected = (np.load(folder / "found-0.npz") for folder in (together, alone))
    return [name for name in expected.files if not np.array_equal(found[name], expected[name])]


def main(kills: int) -> int:
    different = different_with_four(Path(tempfile.mkdtemp()))
    print(f"four processes and one on four devices: {'the same bits' if not different else f'differ in {different}'}")
    return _killed(kills) or bool(different) if kills else bool(different)


def _killed(kills: int) -> int:
    work, draw, slowest = Path(tempfile.mkdtemp()), random.Random(0), 0.0
    whole, killed, other = work / "whole", work / "killed", work / "other"
    for folder in (whole, killed, other):
        folder.mkdir()
    for code, said in ended(started(whole, 2, EPOCHS=EPOCHS), PATIENCE):
        assert code == 0, said
    for number in range(kills):
        before = written(killed)
        processes = started(killed, 2, EPOCHS=EPOCHS)
        victim = draw.randrange(2)
        while written(killed) == before and processes[0].poll() is None:
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.3))
        processes[victim].kill()
        died = time.monotonic()
        code, said = ended(processes)[1 - victim]
        seconds = time.monotonic() - died
        slowest = max(slowest, seconds)
        told = [line for line in said.splitlines() if any(sentence in line for sentence in SENTENCES)]
        print(
            f"kill {number + 1}: process {victim}; the other ended {seconds:.1f} s later with {code}: {told[:1]}",
            flush=True,
        )
        if not (code and told and seconds < 60):
            return 1
        if number == kills // 2:
            shutil.copy(killed / "checkpoint.npz", other / "checkpoint.npz")
    for code, said in ended(started(killed, 2, EPOCHS=EPOCHS), PATIENCE):
        assert code == 0, said
    for code, said in ended(started(other, 4, EPOCHS=EPOCHS), PATIENCE):
        assert code == 0, said
    found, expected, of_four = (np.load(folder / "found-0.npz") for folder in (killed, whole, other))
    same = all(np.array_equal(found[name], expected[name]) for name in expected.files)
    far = float(np.max(np.abs(of_four["adding"] - expected["adding"])))
    print(f"{kills} kills, the other ended within {slowest:.1f} s; same bits as without a kill: {same};")
    print(f"a checkpoint of two processes went on with four, and ended {far:.1e} from them.")
    return 0 if same and far < 1e-4 else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10))
