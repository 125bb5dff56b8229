import jax
import pytest

from experiments import devices, run_state


def test_one_device_needs_no_mesh():
    assert devices.make_mesh(1, batch_size=5) is None


def test_the_first_devices_stand_in_a_row():
    mesh = devices.make_mesh(2, batch_size=6)
    assert list(mesh.devices) == jax.devices()[:2]


def test_more_devices_than_there_are_are_refused():
    count = len(jax.devices()) + 1
    with pytest.raises(run_state.UsageError, match=f"--devices={count}"):
        devices.make_mesh(count, batch_size=count)


def test_what_cannot_be_shared_evenly_is_refused():
    with pytest.raises(run_state.UsageError, match="--devices=2: must divide the 5"):
        devices.make_mesh(2, batch_size=5)
