"""Cells: one step of a recurrent system, for one example."""

from .adapted import AdaptedCell as AdaptedCell
from .affine import AbstractAffineGatedCell as AbstractAffineGatedCell
from .affine import RowGroup as RowGroup
from .antisymmetric import AntisymmetricCell as AntisymmetricCell
from .base import AbstractCell as AbstractCell
from .embedded import EmbeddedCell as EmbeddedCell
from .gru import GRUCell as GRUCell
from .leaky import LeakyCell as LeakyCell
from .lstm import LSTMCell as LSTMCell
from .lstm import LSTMState as LSTMState
from .rollout import rollout as rollout
from .stacked import StackedCell as StackedCell
from .vanilla import VanillaCell as VanillaCell
