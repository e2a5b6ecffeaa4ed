"""Methods on one task: `compare` them at an equal budget, or `sweep` over the settings of one.

Reports are functions of results: `comparison_table(comparison)`, `save_sweep(sweep, folder)`.
"""

from .compare import Comparison as Comparison
from .compare import MethodResult as MethodResult
from .compare import Race as Race
from .compare import compare as compare
from .compare_report import comparison_table as comparison_table
from .compare_report import save_comparison as save_comparison
from .parallel_runs import Budget as Budget
from .parallel_runs import Contestant as Contestant
from .sweep import sweep as sweep
from .sweep_points import grid as grid
from .sweep_points import log_uniform as log_uniform
from .sweep_report import save_sweep as save_sweep
from .sweep_report import sweep_table as sweep_table
from .sweep_results import Sweep as Sweep
from .sweep_results import Trial as Trial
from .training import Training as Training
