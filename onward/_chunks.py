"""The loop over the chunks of a stream, and its derivatives. It gives the same bits however the stream is cut into
calls.
"""

import equinox as eqx
import jax
import jax.numpy as jnp


def over_chunks(step, carry, stream, size, count):
    """`lax.scan` of `step` over the stream's first `count` chunks of `size`; the compiler does not know the count.

    If the compiler knows that a loop runs once, it inlines the loop. If it knows that there is a single chunk, it
    replaces the index by a constant. In both cases it fuses the step with its surroundings, which changes the last
    bits: results would depend on how a stream is cut into calls. So both are kept from it: the
    number of rounds is a value of the run, and a single chunk is stored twice. The second copy is never read.

    Such a loop has no derivative in reverse mode. If derivatives are asked for, `lax.scan` itself runs.
    """
    # Values that the step closes over, such as a rate, become arguments, so that they can be differentiated too.
    step = eqx.filter_closure_convert(step, carry, jax.tree.map(lambda leaf: leaf[:size], stream))
    return _counted(step, carry, stream, size=size, count=count)


@eqx.filter_custom_jvp
def _counted(step, carry, stream, *, size, count):
    given = chunks = len(jax.tree.leaves(stream)[0]) // size
    if chunks == 1:
        chunks, stream = 2, jax.tree.map(lambda leaf: jnp.concatenate([leaf[:size], leaf[:size]]), stream)
    out = jax.tree.map(lambda s: jnp.zeros((chunks, *s.shape), s.dtype), step.out_struct[1])

    def body(i, loop):
        carry, out = loop
        chunk = jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, i * size, size), stream)
        carry, value = step(carry, chunk)
        return carry, jax.tree.map(lambda o, v: jax.lax.dynamic_update_index_in_dim(o, v, i, 0), out, value)

    carry, out = jax.lax.fori_loop(0, count, body, (carry, out))
    return carry, jax.tree.map(lambda leaf: leaf[:given], out)


@_counted.def_jvp
def _scanned(primals, tangents, *, size, count):
    del count  # one call runs all its chunks

    def scan(step, carry, stream):
        def cut(leaf):
            chunks = len(leaf) // size
            return leaf[: chunks * size].reshape(chunks, size, *leaf.shape[1:])

        return jax.lax.scan(lambda *inputs: step(*inputs), carry, jax.tree.map(cut, stream))

    return eqx.filter_jvp(scan, primals, tangents)
