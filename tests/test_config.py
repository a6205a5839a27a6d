import json

import pytest

from rim_tf.config import PAPER, SMALL, RIMConfig
from rim_tf.validation import to_json


@pytest.mark.parametrize("config", [PAPER, SMALL])
def test_json_gives_the_same_network_back(config):
    assert RIMConfig.from_dict(json.loads(to_json(config))) == config
