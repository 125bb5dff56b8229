import inspect

import pytest

import jaxprune


def test_the_public_names_are_few():
    assert len(jaxprune.__all__) <= 15
    assert jaxprune.__all__ == sorted(jaxprune.__all__)


@pytest.mark.parametrize("name", jaxprune.__all__)
def test_each_public_name_shows_an_example(name):
    assert ">>> " in inspect.getdoc(getattr(jaxprune, name))
