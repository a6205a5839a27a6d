import json

import numpy as np
import pytest

from rim_tf.config import SMALL
from rim_tf.errors import InputError
from rim_tf.models.pretrained import load_pretrained, save_trained
from rim_tf.models.rim import RIM


@pytest.fixture
def saved(tmp_path):
    model = RIM(SMALL)
    save_trained(model, tmp_path / "mine", {"seed": 5})
    return model, tmp_path / "mine.json", tmp_path / "mine.weights.h5"


def test_the_shipped_weights_load():
    assert load_pretrained("small").config.link == "softplus"


def test_what_was_saved_comes_back(saved):
    model, description, _ = saved
    loaded = load_pretrained(str(description))
    assert loaded.config == model.config
    for weight, original in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, original)
    assert json.loads(description.read_text())["seed"] == 5


def test_an_unknown_name_is_told_what_there_is():
    with pytest.raises(InputError, match="no weights 'large'; shipped are: .*small"):
        load_pretrained("large")


@pytest.mark.parametrize("kept", [0, 100, 0.5])
def test_truncated_weights_are_noticed_before_they_are_read(saved, kept):
    _, description, weights = saved
    size = kept if isinstance(kept, int) else int(weights.stat().st_size * kept)
    weights.write_bytes(weights.read_bytes()[:size])
    with pytest.raises(InputError, match="mine.weights.h5 is truncated"):
        load_pretrained(description)


def test_missing_weights_are_named(saved):
    _, description, weights = saved
    weights.unlink()
    with pytest.raises(InputError, match="mine.weights.h5 is missing"):
        load_pretrained(description)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"rim": {"depth": 3}, "sha256": ""}'])
def test_a_description_that_describes_nothing_is_named(saved, text):
    _, description, _ = saved
    description.write_text(text)
    with pytest.raises(InputError, match="mine.json does not describe weights"):
        load_pretrained(description)
