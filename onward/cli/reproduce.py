"""`onward reproduce`: a figure of a paper, measured again and held against its claim."""

import platform
import shlex
import time
from importlib.metadata import version
from pathlib import Path

import jax
import msgspec

from .. import __version__
from ..comparison import Comparison
from ..errors import UserError
from ..recipes.nobacktrack import RECIPES
from ..recipes.recipe import Recipe, Verdict
from ..runs.comparing import table
from ..runs.files import write_atomically
from ..runs.folder import check_unused
from .compare import run, use_all_cores
from .compilation_cache import compilation_cache
from .reproduce_options import ReproduceOptions


def reproduce(options: ReproduceOptions) -> int:
    """Runs the command and returns its exit code."""
    if options.figure is None:
        raise UserError(f"say which figure to reproduce; there are {', '.join(RECIPES)}.")
    full = RECIPES[options.figure]
    recipe = full.scaled(options.scale, options.seeds or full.seeds)
    folder = options.run or Path("runs") / time.strftime(f"{recipe.name.replace('/', '-')}-%Y%m%d-%H%M%S")
    check_unused(folder)
    use_all_cores()
    with compilation_cache():
        task = recipe.task()
        comparison = run(
            dict(recipe.contestants(len(task.alphabet))),
            task,
            recipe.budget,
            seed=options.seed,
            seeds=recipe.seeds,
            folder=folder,
            title=recipe.title,
        )
    verdict = judged(recipe, full, comparison)
    write_atomically(folder / "report.md", report(recipe, options, comparison, verdict).encode())
    write_atomically(folder / "result.json", _result(recipe, options, comparison, verdict))
    print(f"\nThe paper: {recipe.claim}\nVerdict: {verdict.word}. {verdict.why}")
    return 0


def judged(recipe: Recipe, full: Recipe, comparison: Comparison) -> Verdict:
    """The recipe's verdict, which a run that is smaller than the full one does not decide."""
    verdict = recipe.judge(comparison)
    if recipe.budget == full.budget and recipe.seeds >= full.seeds:
        return verdict
    return Verdict("not decided", f"this run is smaller than the figure. Of it: {verdict.word}; {verdict.why}")


def report(recipe: Recipe, options: ReproduceOptions, comparison: Comparison, verdict: Verdict) -> str:
    """What was run and what came out, for people."""
    lines = [
        f"# {recipe.title}",
        "",
        f"**The paper:** {recipe.claim}",
        "",
        f"**Verdict: {verdict.word}.** {verdict.why}",
        "",
        "![bits per character against characters read](curve.png)",
        "",
        "```",
        table(comparison, recipe.title).rstrip(),
        "```",
        "",
        recipe.notes,
        "",
        f"- command: `{command(options)}`",
        *(f"- {name}: {value}" for name, value in machine().items()),
    ]
    return "\n".join(lines) + "\n"


def command(options: ReproduceOptions) -> str:
    """The command that does the same again, wherever its results go."""
    words = ["onward", "reproduce", str(options.figure)]
    words += ["--scale", f"{options.scale:g}"] * (options.scale != 1)
    words += [] if options.seeds is None else ["--seeds", str(options.seeds)]
    words += ["--seed", str(options.seed)] * (options.seed != 0)
    return shlex.join(words)


def machine() -> dict[str, str]:
    """When and on what."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("jax", "jaxlib", "equinox", "optax", "numpy"))
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "machine": f"{_processor()}, {jax.device_count()} devices, {platform.system()}, float32",
        "versions": f"onward {__version__}, Python {platform.python_version()}, {packages}",
    }


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    names = information.read_text().splitlines() if information.exists() else []
    return next((line.split(": ")[1] for line in names if line.startswith("model name")), platform.machine())


def _result(recipe: Recipe, options: ReproduceOptions, comparison: Comparison, verdict: Verdict) -> bytes:
    result = {
        "figure": recipe.name,
        "scale": options.scale,
        "claim": recipe.claim,
        "verdict": verdict.word,
        "why": verdict.why,
        "command": command(options),
        **machine(),
        "levels": dict(comparison.task.levels),
        "methods": [
            {
                "name": r.name,
                "settings": r.description,
                "characters": r.characters,
                "seconds": r.seconds,
                "compile_seconds": r.compile_seconds,
                "bits": [None if at else float(b) for b, at in zip(r.whole, r.diverged, strict=True)],
                "closing_bits": [None if at else float(b) for b, at in zip(r.closing, r.diverged, strict=True)],
                "diverged_at": [int(at) or None for at in r.diverged],
            }
            for r in comparison.results
        ],
    }
    return msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n"
