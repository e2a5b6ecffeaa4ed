"""Cells: one step of a recurrent system, for one example."""

from .adapted import AdaptedCell as AdaptedCell
from .affine import AbstractAffineGatedCell as AbstractAffineGatedCell
from .affine import RowGroup as RowGroup
from .antisymmetric import AntisymmetricCell as AntisymmetricCell
from .base import AbstractCell as AbstractCell
from .elstm import ELSTMCell as ELSTMCell
from .embedded import EmbeddedCell as EmbeddedCell
from .gru import GRUCell as GRUCell
from .indrnn import IndRNNCell as IndRNNCell
from .leaky import LeakyCell as LeakyCell
from .lru import ComplexState as ComplexState
from .lru import LRUCell as LRUCell
from .lstm import LSTMCell as LSTMCell
from .lstm import LSTMState as LSTMState
from .min_gru import MinGRUCell as MinGRUCell
from .min_lstm import MinLSTMCell as MinLSTMCell
from .rollout import rollout as rollout
from .rtu import RTUCell as RTUCell
from .stacked import StackedCell as StackedCell
from .unit_wise import AbstractUnitWiseCell as AbstractUnitWiseCell
from .vanilla import VanillaCell as VanillaCell
