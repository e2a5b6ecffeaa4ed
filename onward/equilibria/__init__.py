"""Recurrent systems that settle: the resting state, how it is differentiated there, and what keeps it contracting."""

from .adjoints import RBP as RBP
from .adjoints import ConjugateGradientRBP as ConjugateGradientRBP
from .adjoints import NeumannRBP as NeumannRBP
from .cuts import AbstractCut as AbstractCut
from .cuts import PoissonCut as PoissonCut
from .cuts import UniformCut as UniformCut
from .hopfield import HopfieldMemory as HopfieldMemory
from .hopfield import Recall as Recall
from .hypergradient import Hypergradient as Hypergradient
from .hypergradient import hypergradient as hypergradient
from .jacobian import adjoint_residual as adjoint_residual
from .jacobian import jacobian_norm as jacobian_norm
from .penalties import column_norm_penalty as column_norm_penalty
from .penalties import eigenvalue_penalty as eigenvalue_penalty
from .penalties import gershgorin_bound as gershgorin_bound
from .penalties import gershgorin_penalty as gershgorin_penalty
from .penalties import smallest_eigenvalue as smallest_eigenvalue
from .solve import Diagnostics as Diagnostics
from .solve import Equilibrium as Equilibrium
from .solve import EquilibriumWarning as EquilibriumWarning
from .solve import equilibrium as equilibrium
from .solvers import FixedSteps as FixedSteps
from .steady import AbstractRBP as AbstractRBP
from .unrolled import FullBPTT as FullBPTT
from .unrolled import RandomlyTruncatedBPTT as RandomlyTruncatedBPTT
from .unrolled import TruncatedBPTT as TruncatedBPTT
