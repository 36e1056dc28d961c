"""gan.parallel.sharding: how a state is distributed over the devices, and resuming on another number of them."""

import jax
import meshes
import pytest
import runs
from jax.sharding import PartitionSpec
from players import hyperparams, noisy_game

from gan import state
from gan.errors import UserError
from gan.io import checkpoint
from gan.parallel import sharding
from gan.train import population


@pytest.mark.parametrize(
    "shape, spec",
    [
        ((), ()),
        ((7,), ()),
        ((8,), ("data",)),
        ((3, 8, 16), (None, None, "data")),
        ((8, 8), ("data",)),  # the first of equal ones
        ((9, 4), (None, "data")),  # 9 is larger, and four devices do not divide it
    ],
)
def test_the_largest_axis_that_divides_is_split(shape, spec):
    assert sharding.split_largest(shape, meshes.first(4)).spec == PartitionSpec(*spec)


@pytest.mark.parametrize(
    "before, after", [((4, False), (8, True)), pytest.param((8, True), (1, False), marks=pytest.mark.slow)]
)
def test_a_checkpoint_is_restored_on_other_devices_bit_by_bit(before, after, tmp_path):
    start = jax.jit(lambda: state.create(noisy_game(), hyperparams(), seed=0))()
    layout_before, layout_after = (
        sharding.state_sharding(start, meshes.first(devices), sharded=sharded) for devices, sharded in (before, after)
    )
    with checkpoint.open_manager(tmp_path / "checkpoints") as manager:
        checkpoint.save(manager, 1, jax.device_put(start, layout_before))
        manager.wait_until_finished()
        found = checkpoint.restore(manager, sharding.abstract(jax.eval_shape(lambda: start), layout_after))
    expected = sharding.abstract(start, layout_after)
    for leaf, target in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert leaf.sharding.is_equivalent_to(target.sharding, leaf.ndim)
    assert checkpoint.digests(found) == checkpoint.digests(start)


def test_shard_state_is_rejected_where_it_has_no_meaning(tmp_path):
    with pytest.raises(UserError, match="config.shard_state=True has no meaning with config.parallel='pmap'"):
        runs.train(tmp_path / "run", shard_state=True, parallel="pmap")
    with pytest.raises(UserError, match="config.shard_state=True has no meaning in a population"):
        population.train([runs.config(shard_state=True)], [tmp_path / "member"], 0.0)
    assert not list(tmp_path.iterdir())
