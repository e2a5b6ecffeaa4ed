"""One process of `onward train`, from its first character to the summary."""

import shlex
import signal
import sys
import textwrap
from importlib.metadata import version

import equinox as eqx
import msgspec

from .. import __version__
from ..checkpoints.run_folder import RunFolder, digest
from ..registry.build import build_learner
from ..support.errors import UserError
from ..support.files import read_json_lines
from ..support.interruption import Interruption, TimeIsUp
from ..support.pictures import save_picture
from ..support.printable import file_name
from ..texts.block_program import BlockProgram
from ..texts.curve import CurveLabels, draw_curve
from ..texts.learn import Ending, Outcome, learn, restore
from ..texts.sampling import sample_text
from ..texts.standing import Timing, closing_start
from ..texts.summary import Summary, peak_memory
from ..texts.text import Survey, Text, blocks
from .build import count_parameters, fresh_carry, in_memory, start_and_sample_keys
from .progress import ProgressLine
from .settings import Settings
from .shown import say


class Session:
    """A training with everything built and nothing written yet.

    Raises `UserError` if it does not fit into memory, or if its settings were changed by hand and build no network.
    """

    def __init__(self, settings: Settings, text: Text, survey: Survey):
        self._settings, self._text, self._survey = settings, text, survey
        try:
            learner = build_learner(settings.method)
        except ValueError as error:
            raise UserError(f"the settings of this run do not fit {settings.method_name}: {error}") from None
        start = eqx.filter_jit(fresh_carry)  # one program to compile instead of dozens
        start_key, self._sample_key = start_and_sample_keys(settings)
        with in_memory(self._settings.method_name, self._settings.method):
            self._fresh = start(settings, learner, start_key)
        self._parameters = count_parameters(self._fresh.model)
        self._program = BlockProgram(learner, len(settings.alphabet))

    def run(self, folder: RunFolder, *, checkpoint_every: float) -> int:
        """Learns the rest of the text and returns the exit code."""
        settings = self._settings
        carry, standing = restore(folder, self._fresh, digest(settings))
        total = settings.characters
        what = f"{settings.describe()} on {total:,} characters of {self._text.name}"
        say(f"{what}; run folder {folder.path}", to=sys.stderr)
        if standing.characters:
            say(f"Going on after {standing.characters:,} characters.", to=sys.stderr)
        try:
            with in_memory(self._settings.method_name, self._settings.method):
                ending, interruption = self._learn(folder, carry, standing, checkpoint_every)
            if ending.outcome is Outcome.FINISHED:
                self._finish(folder, ending)
                return 0
        except KeyboardInterrupt as stop:  # a second signal, or one while the summary was being made
            say(f"Stopped. {self._how_to_go_on(folder)}", to=sys.stderr)
            return 0 if isinstance(stop, TimeIsUp) else 128 + signal.SIGINT
        except OSError as error:  # such as a full disk
            safe = f" The last good state is safe. {self._how_to_go_on(folder)}" * bool(folder.saved())
            where = file_name(error.filename or folder.path)
            raise UserError(f"{where}: {error.strerror or error}.{safe}") from None
        if ending.outcome is Outcome.INTERRUPTED:
            learned = f"{ending.standing.characters:,} characters"
            say(f"Stopped after {learned}. {self._how_to_go_on(folder)}", to=sys.stderr)
            return interruption.exit_code
        if ending.standing.characters:
            self._draw(folder)
        say(
            f"onward: learning diverged at character {ending.diverged_at:,}: the loss is no longer finite; "
            f"{folder.checkpoint(ending.standing.characters)} holds the last good state. "
            f"Try a --rate below {settings.method.rate:g}.",
            to=sys.stderr,
        )
        return 1

    def _learn(self, folder, carry, standing, checkpoint_every) -> tuple[Ending, Interruption]:
        settings, total = self._settings, self._settings.characters
        stream = blocks(self._text, settings.alphabet, size=settings.block, start=standing.characters, stop=total)
        with Interruption() as interruption, ProgressLine(start=standing.characters, total=total) as progress:
            ending = learn(
                self._program,
                carry,
                standing,
                stream,
                total=total,
                folder=folder,
                settings=digest(settings),
                checkpoint_every=checkpoint_every,
                interrupted=interruption.came,
                report=progress.update,
            )
        return ending, interruption

    def _finish(self, folder: RunFolder, ending: Ending) -> None:
        settings, standing, total = self._settings, ending.standing, self._settings.characters
        memory = peak_memory()
        sample = sample_text(
            ending.carry.model,
            settings.alphabet,
            prompt=settings.prompt,
            length=settings.sample_length,
            temperature=settings.sample_temperature,
            key=self._sample_key,
        )
        self._draw(folder)
        summary = Summary(
            text=self._text.name,
            characters=total,
            alphabet=len(settings.alphabet),
            bits=standing.bits / total,
            closing_bits=standing.closing_bits / (total - closing_start(total)),
            entropy=self._survey.entropy,
            gzip=self._survey.gzip,
            method=settings.describe(),
            parameters=self._parameters,
            seed=settings.seed,
            seconds=sum(timing.seconds for timing in read_json_lines(folder.timings, Timing)),
            compile_seconds=self._program.compile_seconds,
            peak_memory=memory,
            versions={"onward": __version__}
            | {name: version(name) for name in ("jax", "jaxlib", "equinox", "optax", "numpy")},
        )
        table = summary.table(file_name(folder.path))
        folder.write(folder.sample, (settings.prompt + sample).encode())
        folder.write(folder.summary_text, table.encode())
        # Written last, because its presence means that the run is finished.
        folder.write(folder.summary, msgspec.json.format(msgspec.json.encode(summary), indent=2) + b"\n")
        say(f"\n{table}")
        if sample:
            say(f"What it writes after {settings.prompt!r} (temperature {settings.sample_temperature:g}):\n")
            say(textwrap.indent(sample.strip("\n"), "  "))

    def _draw(self, folder: RunFolder) -> None:
        labels = CurveLabels(
            title=f"Learning {self._text.name} in one pass",
            subtitle=f"{self._settings.describe()}, seed {self._settings.seed}",
            entropy=self._survey.entropy,
            gzip=self._survey.gzip,
        )
        for kind in ("svg", "png"):
            save_picture(folder.picture(kind), lambda kind=kind: draw_curve(folder.metrics, kind, labels))

    @staticmethod
    def _how_to_go_on(folder: RunFolder) -> str:
        return f"Go on with: onward train --resume {shlex.quote(str(folder.path))}"
