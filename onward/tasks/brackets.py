"""Distant brackets: the letters in brackets return after a gap. This tests memory across distraction."""

from string import ascii_lowercase

from ..support.arguments import whole
from .automaton import MOST_STATES, Automaton


def distant_brackets(s: int = 1, k: int = 5, a: int = 10) -> Automaton:
    """Blocks without end: `[`, s random letters, `]`, k random letters, `[`, the same s letters, `]`, newline.

    The true entropy rate is `(s + k) log₂(a)/(2s + k + 5)` bits per symbol. A predictor that forgets the letters in the
    first brackets needs at least `(2s + k) log₂(a)/(2s + k + 5)`. The task is that of Tallec & Ollivier 2018, "Unbiased
    online recurrent optimization".

    * `s`: letters to remember, at least 1;
    * `k`: letters between the brackets, at least 0;
    * `a`: letters are drawn uniformly from the first a letters of the alphabet, 1 to 26.

    The automaton has `(k + 1) aˢ + 2 (1 + a + … + aˢ) + 2` states. Raises `ValueError` for arguments out of range, or
    if that is more than 200 000.

        >>> import jax.random as jr
        >>> source = distant_brackets(s=1, k=2, a=2)
        >>> source.alphabet, round(source.entropy_rate, 6)
        ('\\n[]ab', 0.333333)
        >>> state, symbols = source.sample(source.start(key=jr.key(0)), 9)
        >>> import re
        >>> bool(re.fullmatch(r"\\[([ab])\\][ab]{2}\\[\\1\\]\\n", source.text(symbols)))
        True
    """
    s, k, a = whole("s", s), whole("k", k, least=0), whole("a", a)
    if a > len(ascii_lowercase):
        raise ValueError(f"a must be at most {len(ascii_lowercase)}, the number of letters, got {a}.")
    if _too_many(s, k, a):
        raise ValueError(
            f"s={s}, k={k}, a={a} needs more than {MOST_STATES} states: all a**s words in brackets are remembered; "
            f"take a smaller s, k or a."
        )
    letters = ascii_lowercase[:a]

    def random_letter(after):
        return [(letter, 1 / a, after(letter)) for letter in letters]

    def expand(state):
        place, word, *count = state
        if place == "start":
            return [("[", 1.0, ("first", ""))]
        if place == "first":
            if len(word) < s:
                return random_letter(lambda letter: ("first", word + letter))
            return [("]", 1.0, ("between", word, 0))]
        if place == "between":
            if count[0] < k:
                return random_letter(lambda letter: ("between", word, count[0] + 1))
            return [("[", 1.0, ("second", word))]
        if place == "second":  # what is left to repeat is the word itself
            return [(word[0], 1.0, ("second", word[1:]))] if word else [("]", 1.0, ("end", ""))]
        return [("\n", 1.0, ("start", ""))]

    return Automaton.build("\n[]" + letters, ("start", ""), expand)


def _too_many(s: int, k: int, a: int) -> bool:
    powers = [a ** min(i, MOST_STATES.bit_length()) for i in range(min(s, MOST_STATES) + 1)]  # more need not be known
    return (k + 1) * powers[-1] + 2 * sum(powers) + 2 > MOST_STATES
