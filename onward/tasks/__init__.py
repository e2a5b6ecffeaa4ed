"""Tasks: streams of symbols to predict, with the entropy rate or the level that compressors reach."""

from .prediction import anbn_task as anbn_task
from .prediction import brackets_task as brackets_task
from .prediction import cue_task as cue_task
from .prediction import cycle_world_task as cycle_world_task
from .prediction import memory_chain_task as memory_chain_task
from .prediction import music_task as music_task
from .prediction import shakespeare as shakespeare
from .prediction import stochastic_world_task as stochastic_world_task
from .prediction import text_task as text_task
from .symbols import SymbolTask as SymbolTask
