"""Cues to remember over a long distraction: the delayed cue, and the memory chain with several cues."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Int32, PRNGKeyArray, UInt32

from ..support.arguments import whole
from .symbols import AbstractExamples

CUES, DISTRACTION = "ab", "xy"
QUESTIONS = "123456789"  # question i asks for cue i
NOTHING = "."  # the target where nothing is asked
LONGEST = 10**6


class ChainState(eqx.Module):
    """The state of a stream: its key, and the number of steps so far."""

    key: PRNGKeyArray
    position: UInt32[Array, ""]


class MemoryChain(AbstractExamples):
    """Trials without end, each of `steps` = `cues + wait + 1` steps: first the cues, each `a` or `b`; then `wait`
    letters of distraction, each `x` or `y`; then a question, which names one of the cues by its number.

    The target of the question is the cue that it names. The target of every other step is a dot. Letters and questions
    are uniform and independent; they repeat after 2³² steps. A predictor that remembers its cues has a loss of
    `best_loss` = 0. One that forgets them, but knows when it is asked, needs at least `chance` = 1/steps bits a step:
    one bit an answer.

    With one cue, this is the delayed cue; with several, the memory chain of Osband et al. 2020 (*Behaviour suite for
    reinforcement learning*, `memory_len` and `memory_size`), as a stream without actions.

    **Arguments:** `wait`: the letters of distraction, 1 to 1,000,000; `cues`: 1 to 9. Raises `ValueError` for others.

        >>> import jax.random as jr
        >>> chain = MemoryChain(wait=3, cues=2)
        >>> _, (xs, ys) = chain.sample(chain.start(key=jr.key(0)), 12)
        >>> "".join(chain.alphabet[x] for x in xs), "".join(chain.alphabet[y] for y in ys)
        ('bbyxx1bayxy2', '.....b.....a')
    """

    wait: int  # not static, so that a task's digest covers both
    cues: int

    def __init__(self, wait: int, cues: int = 1):
        self.wait, self.cues = whole("wait", wait), whole("cues", cues)
        if self.wait > LONGEST:
            raise ValueError(f"wait must be at most {LONGEST:,}, got {wait}.")
        if self.cues > len(QUESTIONS):
            raise ValueError(f"cues must be at most {len(QUESTIONS)}, got {cues}.")

    @property
    def steps(self) -> int:
        """The number of steps of a trial."""
        return self.cues + self.wait + 1

    @property
    def alphabet(self) -> str:
        """The character of each symbol."""
        return CUES + DISTRACTION + QUESTIONS[: self.cues] + NOTHING

    @property
    def chance(self) -> float:
        """The least mean loss of a predictor that forgets the cues, in bits per step."""
        return 1 / self.steps

    @property
    def best_loss(self) -> float:
        """The least possible mean loss."""
        return 0.0

    def start(self, *, key: PRNGKeyArray) -> ChainState:
        """The beginning of the stream that belongs to `key`."""
        return ChainState(key, jnp.zeros((), jnp.uint32))

    def sample(
        self, state: ChainState, steps: int
    ) -> tuple[ChainState, tuple[Int32[Array, " steps"], Int32[Array, " steps"]]]:
        """The state after `steps` steps, and their inputs and targets: the same however a stream is cut."""

        def word(t):
            return jr.bits(jr.fold_in(state.key, t), (), jnp.uint32)

        at = state.position + jnp.arange(steps, dtype=jnp.uint32)
        place = at % jnp.uint32(self.steps)
        words = jax.vmap(word)(at)
        letter, asked = words & 1, (words >> 1) % jnp.uint32(self.cues)
        cue = jax.vmap(word)(at - place + asked) & 1
        questioned = place == self.steps - 1
        first_question = len(CUES) + len(DISTRACTION)
        shown = jnp.where(place < self.cues, letter, len(CUES) + letter)
        xs = jnp.where(questioned, first_question + asked, shown)
        ys = jnp.where(questioned, cue, self.alphabet.index(NOTHING))
        after = ChainState(state.key, state.position + jnp.uint32(steps))
        return after, (xs.astype(jnp.int32), ys.astype(jnp.int32))
