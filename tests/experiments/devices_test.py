import jax
import pytest

from experiments import devices, run_state


def test_one_device_needs_no_mesh():
    assert devices.make_mesh("devices", 1) is None


def test_the_first_devices_stand_in_a_row():
    mesh = devices.make_mesh("devices", 2)
    assert list(mesh.devices) == jax.devices()[:2]


def test_more_devices_than_there_are_are_refused():
    count = len(jax.devices()) + 1
    with pytest.raises(run_state.UsageError, match=f"--devices={count}"):
        devices.make_mesh("devices", count)
