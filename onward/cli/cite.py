"""`onward cite`: prints the papers behind the method of a run, as BibTeX."""

from typing import Any

from ..checkpoints.run_folder import command_of
from ..registry.citations import papers
from ..registry.method_names import split_method
from ..support.errors import UserError
from .cite_options import CiteOptions
from .run_overview import settings_of


def cite(options: CiteOptions) -> int:
    """Runs the command and returns its exit code."""
    if options.run is None:
        raise UserError("name a run: onward cite RUN.")
    if command_of(options.run) is None:
        raise UserError(f"{options.run} holds no run; name the folder of a run.")
    found = _papers(settings_of(options.run))
    print("\n\n".join(found) if found else "No paper is behind this run's method in particular.")
    return 0


def _papers(settings: dict[str, Any]) -> list[str]:
    """The papers behind the settings of a run of any command."""
    if "figure" in settings:
        return papers(figure=settings["figure"])
    if "methods" in settings:  # several, each by its name and perhaps followed by settings
        names = [split_method(word.split(",")[0]) for word in settings["methods"]]
        optimizers = [name.optimizer for name in names if name.optimizer is not None]
        cells = [settings["cell"]] if "cell" in settings else []
        return papers(estimators=[name.estimator for name in names], optimizers=optimizers, cells=cells)
    method = settings.get("learning", settings)["method"]
    return papers(estimators=[method["estimator"]], optimizers=[method["optimizer"]], cells=[method["cell"]])
