"""TensorFlow Serving's protocol, asked by the genuine stubs, by JSON, and by our own client."""

import http.client
import json

import grpc
import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose, assert_array_equal

from rim_tf.config import ServingSettings
from rim_tf.errors import InputError
from rim_tf.export import example
from rim_tf.serving.server import Server
from rim_tf_client import Client, ServerError, lenses
from rim_tf_client.messages import MESSAGES

pytest.importorskip("tensorflow_serving", reason="install the extra test: tensorflow-serving-api is missing")
from tensorflow_serving.apis import (  # noqa: E402
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)

SIGNATURE, PIXELS = "serving_default", 16


def inputs(n=1, seed=0):
    """Of so many lenses, no two alike."""
    one = example(SIGNATURE, pixels=PIXELS)
    arrays = {name: np.repeat(value, n, axis=0) for name, value in one.items()}
    rng = np.random.default_rng(seed)
    arrays["image"] *= rng.uniform(0.5, 2, (n, 1, 1)).astype("float32")
    arrays["image"] += rng.normal(size=arrays["image"].shape, scale=0.02).astype("float32")
    return arrays


@pytest.fixture(scope="module")
def truth(version):
    """What the model itself gives."""
    loaded = tf.saved_model.load(version)

    def run(arrays):
        outputs = loaded.signatures[SIGNATURE](**{name: tf.constant(value) for name, value in arrays.items()})
        return {name: value.numpy() for name, value in outputs.items()}

    run.keep = loaded
    return run


@pytest.fixture(scope="module")
def channel(server):
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield channel


def request_of(arrays, signature=SIGNATURE):
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "rim", signature
    for name, value in arrays.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return request


def assert_same(outputs, expected):
    assert set(outputs) == set(expected)
    for name, value in expected.items():
        assert_allclose(outputs[name], value, rtol=1e-4, atol=1e-5 * np.abs(value).max(), err_msg=name)


def test_our_messages_are_the_genuine_ones():
    genuine = {}
    for module in (predict_pb2, get_model_metadata_pb2, get_model_status_pb2, prediction_log_pb2):
        for each in (module.DESCRIPTOR, *module.DESCRIPTOR.dependencies):
            _collect(each.message_types_by_name.values(), genuine)
    _collect(tf.compat.v1.MetaGraphDef.DESCRIPTOR.file.message_types_by_name.values(), genuine)
    _collect(tf.make_tensor_proto(0.0).DESCRIPTOR.file.message_types_by_name.values(), genuine)
    _collect(tf.TensorShape([1]).as_proto().DESCRIPTOR.file.message_types_by_name.values(), genuine)
    for name, ours in MESSAGES.items():
        for field in ours.DESCRIPTOR.fields:
            other = genuine[name].fields_by_number[field.number]
            same_type = field.type == other.type or (field.type, other.type) == (field.TYPE_INT32, field.TYPE_ENUM)
            assert (field.name, field.is_repeated) == (other.name, other.is_repeated) and same_type, (name, field.name)


def _collect(messages, found):
    for each in messages:
        found[each.full_name] = each
        _collect(each.nested_types, found)


def test_genuine_stubs_get_the_numbers_of_the_model(channel, truth):
    arrays = inputs(3)
    response = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request_of(arrays), timeout=60)
    assert (response.model_spec.name, response.model_spec.version.value) == ("rim", 1)
    assert_same({name: tf.make_ndarray(value) for name, value in response.outputs.items()}, truth(arrays))
    request = request_of(arrays)
    request.output_filter.append("flux")
    # Values one by one in place of bytes, as some clients send them.
    request.inputs["pixel_scale"].CopyFrom(tf.compat.v1.make_tensor_proto(arrays["pixel_scale"].tolist(), tf.float32))
    response = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=60)
    assert set(response.outputs) == {"flux"}
    assert_allclose(tf.make_ndarray(response.outputs["flux"]), truth(arrays)["flux"], rtol=1e-4)


def test_genuine_stubs_get_metadata_and_status(channel, version):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "rim"
    response = prediction_service_pb2_grpc.PredictionServiceStub(channel).GetModelMetadata(request, timeout=60)
    found = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(found)
    loaded = tf.saved_model.load(version)
    assert set(found.signature_def) == set(loaded.signatures)
    image = found.signature_def[SIGNATURE].inputs["image"]
    assert image.dtype == tf.float32.as_datatype_enum and [each.size for each in image.tensor_shape.dim] == [-1] * 3
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "rim"
    (status,) = (
        model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(request, timeout=60).model_version_status
    )
    assert status.version == 1 and status.state == get_model_status_pb2.ModelVersionStatus.AVAILABLE


def rest(server, method, path, body=None, headers=()):
    connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=60)
    connection.request(method, path, body, dict(headers))
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def test_json_row_by_row_and_by_column(server, truth):
    arrays = inputs(2, seed=1)
    lists = {name: value.tolist() for name, value in arrays.items()}
    status, answer = rest(server, "POST", "/v1/models/rim:predict", json.dumps({"inputs": lists}))
    assert status == 200
    assert_same({name: np.float32(value) for name, value in answer["outputs"].items()}, truth(arrays))
    rows = [{name: value[i] for name, value in lists.items()} for i in range(2)]
    status, answer = rest(server, "POST", "/v1/models/rim/versions/1:predict", json.dumps({"instances": rows}))
    assert status == 200
    columns = {name: np.float32([row[name] for row in answer["predictions"]]) for name in answer["predictions"][0]}
    assert_same(columns, truth(arrays))
    status, answer = rest(server, "GET", "/v1/models/rim")
    assert status == 200 and answer["model_version_status"][0]["state"] == "AVAILABLE"


@pytest.mark.parametrize("way", ["grpc", "rest"])
def test_our_client(server, truth, way):
    address = f"127.0.0.1:{server.port}" if way == "grpc" else f"http://127.0.0.1:{server.rest_port}"
    with Client(address) as client:
        assert client.status() == {1: "AVAILABLE"}
        signatures = client.signatures()
        assert signatures[SIGNATURE]["inputs"]["lens"] == ("float32", [-1, 7])
        assert lenses.mass_models(client) == (("sie", "shear"), ("sie", "shear"))
        # Each gets the answer to its own question, whoever else asks.
        many = [inputs(1 + i % 3, seed=i) for i in range(9)]
        for arrays, outputs in zip(many, client.predict_many(SIGNATURE, many, at_once=5), strict=True):
            assert_same(outputs, truth(arrays))
        with pytest.raises(ServerError, match="nothing") as refused:
            client.predict("nothing", many[0])
        assert refused.value.code == "FAILED_PRECONDITION"


def changed(**changes):
    arrays = inputs()
    for name, change in changes.items():
        arrays[name] = change(arrays[name])
    return arrays


BAD = {
    "an input too few": ({"lens": None}, "lacks the input 'lens'"),
    "an input too many": ({"sky": lambda _: np.zeros(1, "float32")}, "no input 'sky'"),
    "another type": ({"image": lambda x: x.astype("float64")}, "image is of float64"),
    "another number of axes": ({"image": lambda x: x[0]}, "image has shape"),
    "six parameters": ({"lens": lambda x: x[:, :6]}, "lens has shape"),
    "another batch": ({"lens": lambda x: np.repeat(x, 2, 0)}, "the batch"),
    "no lens at all": ({"lens": lambda x: x[:0]}, "nothing in it"),
    "noise of another shape": ({"noise_rms": lambda x: x[:, :1, :1]}, "image and noise_rms must have the same"),
    "an even stamp": ({"psf": lambda x: x[:, :4]}, "psf must have an odd number"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_inputs_are_refused_with_a_sentence(server, kind):
    changes, why = BAD[kind]
    arrays = inputs()
    for name, change in changes.items():
        if change is None:
            del arrays[name]
        else:
            arrays[name] = change(arrays.get(name))
    with Client(f"127.0.0.1:{server.port}") as client, pytest.raises(ServerError, match=why) as refused:
        client.predict(SIGNATURE, arrays)
    assert refused.value.code == "INVALID_ARGUMENT" and "Traceback" not in str(refused.value)


def test_what_is_no_request_is_refused(server, channel):
    call = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    whole = request_of(inputs()).SerializeToString()
    for content, code in ((whole[:-7], "INVALID_ARGUMENT"), (b"\xff" * 9, "INVALID_ARGUMENT"), (b"", "NOT_FOUND")):
        with pytest.raises(grpc.RpcError) as refused:
            call(content, timeout=60)
        assert refused.value.code().name == code
    with pytest.raises(grpc.RpcError) as refused:
        call(bytes(5 * 2**20), timeout=60)  # the server takes 4
    assert refused.value.code().name == "RESOURCE_EXHAUSTED"
    with pytest.raises(grpc.RpcError) as refused:
        prediction_service_pb2_grpc.PredictionServiceStub(channel).Classify(classification_pb2.ClassificationRequest())
    assert refused.value.code().name == "UNIMPLEMENTED"


def test_what_is_no_rest_request_is_refused(server):
    path = "/v1/models/rim:predict"
    for method, where, body, headers, status in (
        ("POST", path, "{", (), 400),
        ("POST", path, "[]", (), 400),
        ("POST", path, '{"inputs": 3}', (), 400),
        ("POST", path, '{"instances": [{"image": "x"}]}', (), 400),
        ("POST", path, '{"inputs": {"image": [[1], [1, 2]]}}', (), 400),
        ("POST", path, None, {"Content-Length": str(2**40)}, 413),
        ("POST", path.replace("rim", "other"), "{}", (), 404),
        ("POST", "/v1/models/rim/versions/7:predict", "{}", (), 404),
        ("POST", path, '{"signature_name": "none", "inputs": {}}', (), 412),
        ("GET", "/v1/models/other", None, (), 404),
        ("GET", "/", None, (), 404),
    ):
        found, answer = rest(server, method, where, body, headers)
        assert found == status and answer["error"], (where, body)


def test_a_bad_request_does_not_spoil_its_neighbours(server, truth):
    bad = inputs() | {"noise_rms": np.ones((1, 1, 1), "float32")}
    lost = inputs()
    lost["image"][0, 3, 3] = np.nan  # of the right shape, and so in one batch with the others
    good = inputs(seed=3)
    with Client(f"127.0.0.1:{server.port}") as client:
        results = list(client.predict_many(SIGNATURE, [good, bad, lost] * 3, at_once=9))
    for outputs, one, other in zip(*(results[i::3] for i in range(3)), strict=True):
        assert_same(outputs, truth(good))
        assert one.code == other.code == "INVALID_ARGUMENT" and "image must be finite" in str(other)


WRONG = {
    "image": (lambda x: np.full_like(x, np.nan), "image must be finite where mask is true; that of system 1 of the 2"),
    "noise_rms": (np.zeros_like, "noise_rms must be finite and above 0"),
    "mask": (np.zeros_like, "mask must be true somewhere"),
    "psf": (np.zeros_like, "psf must be finite: a stamp whose sum is 1"),
    "lens": (lambda x: np.full_like(x, np.inf), "lens must be finite and within"),
    "pixel_scale": (np.zeros_like, "pixel_scale must be"),
    "source_pixel_scale": (lambda x: -x, "source_pixel_scale must be"),
}


@pytest.mark.parametrize("name", WRONG)
def test_values_that_cannot_be_are_refused_with_a_sentence(server, name):
    change, why = WRONG[name]
    arrays = inputs(2)
    arrays[name][1] = change(arrays[name][1])
    with Client(f"127.0.0.1:{server.port}") as client, pytest.raises(ServerError, match=why) as refused:
        client.predict(SIGNATURE, arrays)
    assert refused.value.code == "INVALID_ARGUMENT"
    status, answer = rest(server, "POST", "/v1/models/rim:predict", json.dumps({"inputs": _lists(arrays)}))
    assert status == 400 and why in answer["error"]


def _lists(arrays):
    return {name: value.tolist() for name, value in arrays.items()}


def test_a_server_that_hands_the_status_on_has_it_turned_into_an_error(server, channel, truth, monkeypatch):
    monkeypatch.setattr("rim_tf.serving.service.complaint", lambda outputs: None)  # as TensorFlow Serving
    arrays = inputs(2)
    arrays["lens"][1, 0] = -1.0
    response = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request_of(arrays), timeout=60)
    outputs = {name: tf.make_ndarray(value) for name, value in response.outputs.items()}
    assert_array_equal(outputs["status"], [0, 5])
    for name, value in truth(inputs(2)).items():
        assert_allclose(outputs[name][0], value[0], rtol=1e-4, atol=1e-5 * np.abs(value[0]).max(), err_msg=name)
        assert name == "status" or np.isnan(outputs[name][1]).all()
    with Client(f"127.0.0.1:{server.port}") as client, pytest.raises(ServerError, match="lens must be") as refused:
        client.predict(SIGNATURE, arrays)
    assert refused.value.code == "INVALID_ARGUMENT"


class Nothing:
    """In the place of a `Model`, which takes seconds to load."""

    name, states = "rim", {}

    def __init__(self, *arguments):
        pass

    def close(self):
        pass


def test_a_port_that_is_taken_is_refused(server, monkeypatch):
    monkeypatch.setattr("rim_tf.serving.server.Model", Nothing)
    for ports in ((server.port, 0), (0, server.rest_port)):
        with pytest.raises(InputError, match="cannot be listened on"):
            Server("rim", "127.0.0.1", *ports, ServingSettings(workers=1))
