# %% [markdown]
# # A stream by key, with a kill in the middle
#
# `onward stream` learns from an endless file of events, with a hidden state for each machine, and forecasts each load
# 24 events of its machine ahead. We kill it with signal 9 at a random moment, resume, and compare its predictions with
# those of a run that nobody disturbed: the same bits.

# %%
import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path

with open("events.csv", "w") as file:
    file.write("machine,load\n")
    for t in range(12_000):
        machine = t % 3
        file.write(f"m{machine},{10 * machine + math.sin(t / 9 + machine) + 0.3 * math.sin(t / 2):.6f}\n")

onward = [sys.executable, "-m", "onward", "stream"]
settings = ["--target", "load", "--key", "machine", "--horizon", "24", "--checkpoint-every", "1"]


def start(*arguments):
    """Starts the command in a process of its own."""
    return subprocess.Popen(
        [*onward, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


# %% [markdown]
# The undisturbed run:

# %%
calm = start("--input", "events.csv", *settings, "--run", "calm")
output, _ = calm.communicate()
print(output[-700:])

# %% [markdown]
# The same, killed as soon as it has written some predictions, and resumed until it is done:

# %%
disturbed = start("--input", "events.csv", *settings, "--run", "disturbed")
written = Path("disturbed/predictions.jsonl")
while disturbed.poll() is None and not (written.exists() and written.stat().st_size > 100_000):
    time.sleep(0.02)
disturbed.send_signal(signal.SIGKILL)
disturbed.communicate()
print("killed after", len(written.read_text().splitlines()), "lines of predictions")

resumed = start("--resume", "disturbed", "--input", "events.csv")
resumed.communicate()
same = Path("calm/predictions.jsonl").read_bytes() == written.read_bytes()
print("the predictions are the same, byte for byte:", same)
assert same

# %% [markdown]
# Each line is one event. The newest forecast of each machine stands in its last line:

# %%
newest = {line["key"]: line for line in map(json.loads, written.open())}
for machine, line in newest.items():
    ahead = 24 + int(line["line"] - 2) // 3  # the machine's event that is forecast
    t = 3 * ahead + int(machine[1:])
    truth = 10 * int(machine[1:]) + math.sin(t / 9 + int(machine[1:])) + 0.3 * math.sin(t / 2)
    print(f"{machine}: 24 events ahead {line['forecast']:.2f}; it will be {truth:.2f}, and is now {line['target']:.2f}")
