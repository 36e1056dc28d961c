"""What a turn's program is, compiled for a mesh of devices."""

import functools

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from experiments.plan.work import Data, program
from gan import loop, sharding


def compiled_turn(config: ConfigDict, data: Data, mesh: Mesh) -> str:
    """The program of a config's turn, as it is compiled for these devices."""
    turn, (shapes, arrays, _, numbers) = program(config, data)
    game = loop.as_played(turn.keywords["game"], config, mesh)
    layout = sharding.of_state(shapes, mesh, in_parts=config.shard_state)
    turns = sharding.compile_turns(
        functools.partial(turn, game=game),
        mesh,
        wrapper=config.parallel,
        batch_size=config.batch_size,
        data_axis=1,
        most=1,
        numbers=numbers,
        layout=layout,
    )
    given = sharding.abstract((shapes, arrays), (layout, sharding.split_rows(mesh, 1)))
    return jax.jit(lambda state, data: turns(state, data, 1)).lower(*given).compile().as_text()
