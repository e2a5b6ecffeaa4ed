"""Synthetic music: a made-up notation with syntactic, rhythmic and harmonic rules, whose entropy rate is known."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from .automaton import Automaton, Expansion

SCALE = "cdefgab"  # a circle: c follows b
TONES = {"C": "ceg", "F": "fac", "G": "gbd", "A": "ace"}  # the root first

OPENING = {"C": 3 / 4, "A": 1 / 4}
PROGRESSION = {
    "C": {"F": 3 / 8, "G": 3 / 8, "A": 1 / 4},
    "F": {"C": 3 / 8, "G": 1 / 2, "A": 1 / 8},
    "G": {"C": 3 / 4, "A": 1 / 4},
    "A": {"F": 3 / 4, "G": 1 / 4},
}
CADENCE = {"C": 3 / 4, "G": 1 / 4}

RHYTHM = {  # at an even eighth: how long the note is
    0: {"1": 5 / 16, "2": 7 / 16, "4": 3 / 16, "8": 1 / 16},
    2: {"1": 1 / 2, "2": 1 / 2},
    4: {"1": 3 / 8, "2": 3 / 8, "4": 1 / 4},
    6: {"1": 1 / 2, "2": 1 / 2},
}
LAST_RHYTHM = RHYTHM | {0: {"1": 3 / 8, "2": 3 / 8, "4": 1 / 4}, 4: {"4": 1.0}}  # in a phrase's last bar

CLOSENESS = (1, 4, 2, 1)  # weights of pitches 0, 1, 2 and 3 steps from the last one

BARS, EIGHTHS = 4, 8


class Place(NamedTuple):
    """The position in the music: the rule for the next symbol, and what later rules must know."""

    rule: Callable[["Place"], Expansion]
    bar: int = 0
    chord: str = ""
    eighth: int = 0
    pitch: str = SCALE[0]


def synthetic_music() -> Automaton:
    """An endless melody in a small notation, with rules of syntax, rhythm and harmony.

    This is a reconstruction from the description in Ollivier, Tallec & Charpiat 2015 ("synthetic music notation with
    several syntactic, rhythmic and harmonic constraints"). The authors' own file is lost, so the levels that they
    report do not hold for this music.

    Syntax. A phrase is four bars and a newline. A bar is a chord letter, `:`, its notes, `|`. A note is a pitch, one
    of the seven letters c d e f g a b, and a digit, its length in eighths. The 18 symbols are thus `\\n`, `1248`, `:`,
    `ACFG`, `a`–`g` and `|`. A phrase:

        C:g1a1g1a1e2d1c1|F:a2c2f2c2|G:b1c1b2d2b2|C:c1d1e2c4|

    Each chord has three tones, the root first: C = c e g, F = f a c, G = g b d, A = a c e.
    * The first bar has C (3/4) or A (1/4). The last one has C (3/4) or G (1/4), independently of the bars before it.
    * The second and third bars depend on the bar before: C → F 3/8, G 3/8, A 1/4; F → C 3/8, G 1/2, A 1/8; G → C 3/4, A
      1/4; A → F 3/4, G 1/4.

    Rhythm. The notes of a bar fill eight eighths, counted from 0. The length, written after the pitch, is
    * at 0: 1 (5/16), 2 (7/16), 4 (3/16) or 8 (1/16); at 4: 1 (3/8), 2 (3/8) or 4 (1/4); at 2 and 6: 1 or 2 (1/2 each);
    * at odd eighths always 1: eighths come in pairs;
    * in the last bar at 0: 1 (3/8), 2 (3/8) or 4 (1/4), and at 4 always 4.

    Harmony. The pitch is drawn from a set in proportion to its weight: 1, 4, 2, 1 for 0, 1, 2, 3 steps from the last
    pitch along the circle c d e f g a b (c), whichever way is shorter. The set is
    * at 0 and 4, the strong eighths: the three tones of the chord;
    * elsewhere: these and the two neighbours of the last pitch;
    * at 4 in the last bar: the root alone.

    The last pitch carries over from bar to bar and from phrase to phrase. Before the first note it is c.

    The automaton has 1144 states. The alphabet is in code point order. `surprisals` gives the cost of a phrase in bits:

        >>> from onward.texts.text import encode
        >>> source = synthetic_music()
        >>> source.alphabet, round(source.entropy_rate, 6)
        ('\\n1248:ACFGabcdefg|', 1.025579)
        >>> phrase = "C:g1a1g1a1e2d1c1|F:a2c2f2c2|G:b1c1b2d2b2|C:c1d1e2c4|\\n"
        >>> bits = source.surprisals(encode(phrase, source.alphabet, name="the phrase"))
        >>> round(float(bits.mean()), 2)
        1.01
    """
    alphabet = "".join(sorted("\n:|1248" + "".join(TONES) + SCALE))
    return Automaton.build(alphabet, Place(_chord), lambda place: place.rule(place))


def _chord(place: Place) -> Expansion:
    if place.bar == 0:
        odds = OPENING
    elif place.bar == BARS - 1:
        odds = CADENCE
    else:
        odds = PROGRESSION[place.chord]
    return [(chord, p, place._replace(rule=_colon, chord=chord)) for chord, p in odds.items()]


def _colon(place: Place) -> Expansion:
    return [(":", 1.0, place._replace(rule=_pitch))]


def _pitch(place: Place) -> Expansion:
    odds = _pitches(place)
    return [(pitch, p, place._replace(rule=_length, pitch=pitch)) for pitch, p in odds.items()]


def _length(place: Place) -> Expansion:
    def after(length):
        eighth = place.eighth + int(length)
        return place._replace(rule=_pitch if eighth < EIGHTHS else _bar_line, eighth=eighth)

    rhythm = LAST_RHYTHM if place.bar == BARS - 1 else RHYTHM
    odds = {"1": 1.0} if place.eighth % 2 else rhythm[place.eighth]
    return [(length, p, after(length)) for length, p in odds.items()]


def _bar_line(place: Place) -> Expansion:
    bar = place.bar + 1
    # The cadence does not depend on the chord before it, so that chord is forgotten.
    chord = place.chord if bar < BARS - 1 else ""
    return [("|", 1.0, Place(_chord if bar < BARS else _newline, bar, chord, pitch=place.pitch))]


def _newline(place: Place) -> Expansion:
    return [("\n", 1.0, Place(_chord, pitch=place.pitch))]


def _pitches(place: Place) -> Mapping[str, float]:
    tones, last = TONES[place.chord], SCALE.index(place.pitch)
    if place.bar == BARS - 1 and place.eighth == 4:
        return {tones[0]: 1.0}
    neighbours = SCALE[last - 1] + SCALE[(last + 1) % len(SCALE)] if place.eighth % 4 else ""
    weights = {pitch: CLOSENESS[_steps(last, SCALE.index(pitch))] for pitch in tones + neighbours}
    return {pitch: weight / sum(weights.values()) for pitch, weight in weights.items()}


def _steps(one: int, other: int) -> int:
    around = abs(one - other)
    return min(around, len(SCALE) - around)
