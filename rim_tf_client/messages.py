"""The messages of TensorFlow Serving's protocol, without TensorFlow: what goes over the wire is the same to the byte.

The classes of `tensorflow-serving-api` import TensorFlow, which takes seconds and half a gigabyte. These are made from
the numbers and types of the fields that a caller needs (tensorflow_serving/apis/*.proto, tensorflow/core/framework/
{tensor,tensor_shape,types}.proto), in a pool of their own, so that both may be loaded side by side. Fields that are
left out here are skipped when they arrive.
"""

import math

import numpy as np
from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, message_factory, wrappers_pb2

_FIELD = descriptor_pb2.FieldDescriptorProto
_TYPES = {
    "bool": _FIELD.TYPE_BOOL,
    "bytes": _FIELD.TYPE_BYTES,
    "double": _FIELD.TYPE_DOUBLE,
    "float": _FIELD.TYPE_FLOAT,
    # An enumeration travels as an int32 does.
    "int32": _FIELD.TYPE_INT32,
    "int64": _FIELD.TYPE_INT64,
    "string": _FIELD.TYPE_STRING,
}
# message -> {field: (number, type, what it is)}; a type that is no word of _TYPES is a message. What it is: "" for one,
# "*" for a list, "{}" for a map from strings.
_MESSAGES = {
    "tensorflow.TensorShapeProto": {
        "dim": (2, "tensorflow.TensorShapeProto.Dim", "*"),
        "unknown_rank": (3, "bool", ""),
    },
    "tensorflow.TensorShapeProto.Dim": {"size": (1, "int64", ""), "name": (2, "string", "")},
    "tensorflow.TensorProto": {
        "dtype": (1, "int32", ""),
        "tensor_shape": (2, "tensorflow.TensorShapeProto", ""),
        "tensor_content": (4, "bytes", ""),
        "float_val": (5, "float", "*"),
        "double_val": (6, "double", "*"),
        "int_val": (7, "int32", "*"),
        "string_val": (8, "bytes", "*"),
        "int64_val": (10, "int64", "*"),
        "bool_val": (11, "bool", "*"),
    },
    "tensorflow.TensorInfo": {
        "name": (1, "string", ""),
        "dtype": (2, "int32", ""),
        "tensor_shape": (3, "tensorflow.TensorShapeProto", ""),
    },
    "tensorflow.SignatureDef": {
        "inputs": (1, "tensorflow.TensorInfo", "{}"),
        "outputs": (2, "tensorflow.TensorInfo", "{}"),
        "method_name": (3, "string", ""),
    },
    "tensorflow.serving.SignatureDefMap": {"signature_def": (1, "tensorflow.SignatureDef", "{}")},
    "tensorflow.serving.ModelSpec": {
        "name": (1, "string", ""),
        "version": (2, "google.protobuf.Int64Value", ""),
        "signature_name": (3, "string", ""),
        "version_label": (4, "string", ""),
    },
    "tensorflow.serving.PredictRequest": {
        "model_spec": (1, "tensorflow.serving.ModelSpec", ""),
        "inputs": (2, "tensorflow.TensorProto", "{}"),
        "output_filter": (3, "string", "*"),
    },
    "tensorflow.serving.PredictResponse": {
        "outputs": (1, "tensorflow.TensorProto", "{}"),
        "model_spec": (2, "tensorflow.serving.ModelSpec", ""),
    },
    "tensorflow.serving.GetModelMetadataRequest": {
        "model_spec": (1, "tensorflow.serving.ModelSpec", ""),
        "metadata_field": (2, "string", "*"),
    },
    "tensorflow.serving.GetModelMetadataResponse": {
        "model_spec": (1, "tensorflow.serving.ModelSpec", ""),
        "metadata": (2, "google.protobuf.Any", "{}"),
    },
    "tensorflow.serving.StatusProto": {"error_code": (1, "int32", ""), "error_message": (2, "string", "")},
    "tensorflow.serving.GetModelStatusRequest": {"model_spec": (1, "tensorflow.serving.ModelSpec", "")},
    "tensorflow.serving.ModelVersionStatus": {
        "version": (1, "int64", ""),
        "state": (2, "int32", ""),
        "status": (3, "tensorflow.serving.StatusProto", ""),
    },
    "tensorflow.serving.GetModelStatusResponse": {
        "model_version_status": (1, "tensorflow.serving.ModelVersionStatus", "*")
    },
    "tensorflow.serving.PredictLog": {"request": (1, "tensorflow.serving.PredictRequest", "")},
    "tensorflow.serving.PredictionLog": {"predict_log": (6, "tensorflow.serving.PredictLog", "")},
}


def _pool():
    pool = descriptor_pool.DescriptorPool()
    for standard in (any_pb2, wrappers_pb2):
        pool.AddSerializedFile(standard.DESCRIPTOR.serialized_pb)
    files = {}
    for package in ("tensorflow", "tensorflow.serving"):
        file = files[package] = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package)
        file.syntax = "proto3"
    files["tensorflow.serving"].dependency.extend(
        ["tensorflow.proto", any_pb2.DESCRIPTOR.name, wrappers_pb2.DESCRIPTOR.name]
    )
    made = {}
    for name, fields in _MESSAGES.items():
        parent, _, short = name.rpartition(".")
        message = made[parent].nested_type.add() if parent in made else files[parent].message_type.add()
        message.name, made[name] = short, message
        for field, description in fields.items():
            _add_field(message, name, field, *description)
    for file in files.values():
        pool.Add(file)
    return pool


def _add_field(message, owner, name, number, kind, what):
    field = message.field.add(name=name, number=number, label=_FIELD.LABEL_REPEATED if what else _FIELD.LABEL_OPTIONAL)
    if what == "{}":
        entry = message.nested_type.add(name="".join(map(str.capitalize, name.split("_"))) + "Entry")
        entry.options.map_entry = True
        kind_of_entry = f"{owner}.{entry.name}"
        _add_field(entry, kind_of_entry, "key", 1, "string", "")
        _add_field(entry, kind_of_entry, "value", 2, kind, "")
        kind = kind_of_entry
    if kind in _TYPES:
        field.type = _TYPES[kind]
    else:
        field.type, field.type_name = _FIELD.TYPE_MESSAGE, "." + kind


_POOL = _pool()


def _class(name):
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(name))


MESSAGES = {name: _class(name) for name in _MESSAGES}
TensorProto = MESSAGES["tensorflow.TensorProto"]
SignatureDefMap = MESSAGES["tensorflow.serving.SignatureDefMap"]
PredictRequest = MESSAGES["tensorflow.serving.PredictRequest"]
PredictResponse = MESSAGES["tensorflow.serving.PredictResponse"]
GetModelMetadataRequest = MESSAGES["tensorflow.serving.GetModelMetadataRequest"]
GetModelMetadataResponse = MESSAGES["tensorflow.serving.GetModelMetadataResponse"]
GetModelStatusRequest = MESSAGES["tensorflow.serving.GetModelStatusRequest"]
GetModelStatusResponse = MESSAGES["tensorflow.serving.GetModelStatusResponse"]
PredictionLog = MESSAGES["tensorflow.serving.PredictionLog"]

# rpc -> its service, request and response.
METHODS = {
    "Predict": ("tensorflow.serving.PredictionService", PredictRequest, PredictResponse),
    "GetModelMetadata": ("tensorflow.serving.PredictionService", GetModelMetadataRequest, GetModelMetadataResponse),
    "GetModelStatus": ("tensorflow.serving.ModelService", GetModelStatusRequest, GetModelStatusResponse),
}
# File of requests in a version's assets.extra that a server answers itself before the version is there for others: a
# TFRecord of PredictionLogs.
WARM_UP = "tf_serving_warmup_requests"
# States of a version in a GetModelStatusResponse.
STATES = {0: "UNKNOWN", 10: "START", 20: "LOADING", 30: "AVAILABLE", 40: "UNLOADING", 50: "END"}

# ------------------------------------------------------------------------------------------------------- tensors

# Number in tensorflow/core/framework/types.proto -> type of NumPy, name in JSON, field of single values.
DTYPES = {
    1: (np.dtype("float32"), "DT_FLOAT", "float_val"),
    2: (np.dtype("float64"), "DT_DOUBLE", "double_val"),
    3: (np.dtype("int32"), "DT_INT32", "int_val"),
    7: (np.dtype("S"), "DT_STRING", "string_val"),
    9: (np.dtype("int64"), "DT_INT64", "int64_val"),
    10: (np.dtype("bool"), "DT_BOOL", "bool_val"),
}
_NUMBERS = {dtype: number for number, (dtype, _, _) in DTYPES.items()}


def to_proto(array):
    """A TensorProto of a NumPy array.

    Raises:
      ValueError: of a type that is not in DTYPES.
    """
    array = np.asarray(array)
    kind = np.dtype("S") if array.dtype.kind == "S" else array.dtype  # bytes, of whatever length
    if kind not in _NUMBERS:
        raise ValueError(f"An array of {array.dtype} cannot be sent; wanted is one of {', '.join(map(str, _NUMBERS))}.")
    proto = TensorProto(dtype=_NUMBERS[kind])
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    if kind.kind == "S":
        proto.string_val.extend(array.ravel().tolist())
        return proto
    proto.tensor_content = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
    return proto


def from_proto(proto):
    """The NumPy array of a TensorProto; it may share memory with the message and cannot be written to.

    Raises:
      ValueError: an unknown type, no shape, or other than as many values as the shape has.
    """
    if proto.dtype not in DTYPES:
        raise ValueError(f"it has the type number {proto.dtype}, which is none of {', '.join(map(str, _NUMBERS))}")
    dtype, _, field = DTYPES[proto.dtype]
    shape = [dim.size for dim in proto.tensor_shape.dim]
    if proto.tensor_shape.unknown_rank or min(shape, default=0) < 0:
        raise ValueError(f"its shape {shape} is not known")
    wanted = math.prod(shape)
    if proto.tensor_content and dtype.kind != "S":
        if len(proto.tensor_content) != wanted * dtype.itemsize:
            raise ValueError(
                f"it has {len(proto.tensor_content)} bytes, and its shape {shape} of {dtype} {wanted * dtype.itemsize}"
            )
        return np.frombuffer(proto.tensor_content, dtype.newbyteorder("<")).astype(dtype, copy=False).reshape(shape)
    values = np.asarray(getattr(proto, field), dtype)
    if values.size == 1 and wanted <= _MOST_REPEATED:  # one value stands for all
        return np.full(shape, values[0])
    if values.size != wanted:
        raise ValueError(f"it has {values.size} values, and its shape {shape} {wanted}")
    return values.reshape(shape)


# A message of a few bytes may not ask for gigabytes.
_MOST_REPEATED = 2**24
