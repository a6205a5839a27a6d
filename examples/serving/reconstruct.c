/* The source behind a known lens, from C, through an exported model and the C API of TensorFlow:
 *
 *   sh build_c.sh reconstruct
 *   ./reconstruct models/rim/1 FOLDER ROWS COLUMNS STAMP PIXEL_SCALE SOURCE_PIXEL_SCALE
 *
 * FOLDER holds raw numbers of this machine, row by row: image.f32 and noise_rms.f32, ROWS x COLUMNS, mask.u8 of 0 and 1,
 * psf.f32, STAMP x STAMP with a sum of 1, and lens.f32, the seven parameters. source.f32 is written beside them. */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tensorflow/c/c_api.h>

#define SIGNATURE "serving_default"

static void fail(const char *what, const char *why) {
  fprintf(stderr, "%s: %s\n", what, why);
  exit(1);
}

static void check(const TF_Status *status, const char *what) {
  if (TF_GetCode(status) != TF_OK) fail(what, TF_Message(status));
}

/* ---- Which tensors of the graph are the inputs and outputs of a signature: a few fields of a MetaGraphDef, which the C
 * API hands out as protobuf. */

typedef struct {
  const uint8_t *at, *end;
} Bytes;

static uint64_t varint(Bytes *from) {
  uint64_t value = 0;
  for (int shift = 0; from->at < from->end; shift += 7) {
    uint8_t byte = *from->at++;
    value |= (uint64_t)(byte & 127) << shift;
    if (byte < 128) break;
  }
  return value;
}

/* The number of the next field, 0 at the end; its content, where that has a length. */
static int next_field(Bytes *message, Bytes *content) {
  if (message->at >= message->end) return 0;
  uint64_t tag = varint(message), wire = tag & 7;
  if (wire == 2) {
    uint64_t length = varint(message);
    content->at = message->at;
    if (length > (uint64_t)(message->end - message->at)) fail(SIGNATURE, "this file is damaged");
    message->at += length;
    content->end = message->at;
  } else if (wire == 0) {
    varint(message);
  } else {
    message->at += wire == 1 ? 8 : 4;
  }
  return (int)(tag >> 3);
}

/* The value of `key` in the map that is the field `number`; empty where there is none. */
static Bytes entry(Bytes message, int number, const char *key) {
  Bytes content, part, value = {NULL, NULL};
  int field;
  while ((field = next_field(&message, &content))) {
    if (field != number) continue;
    int found = 0;
    while ((field = next_field(&content, &part))) {
      if (field == 1) found = (size_t)(part.end - part.at) == strlen(key) && !memcmp(part.at, key, strlen(key));
      if (field == 2) value = part;
    }
    if (found) return value;
  }
  return (Bytes){NULL, NULL};
}

enum { INPUTS = 1, OUTPUTS = 2 }; /* fields of a SignatureDef */

static TF_Output tensor_of(TF_Graph *graph, const TF_Buffer *definition, int side, const char *key) {
  Bytes whole = {definition->data, (const uint8_t *)definition->data + definition->length}, content;
  Bytes info = entry(entry(whole, 5, SIGNATURE), side, key); /* MetaGraphDef.signature_def, then a TensorInfo */
  char name[256] = "";
  int field;
  while ((field = next_field(&info, &content)))
    if (field == 1) snprintf(name, sizeof name, "%.*s", (int)(content.end - content.at), (const char *)content.at);
  char *colon = strrchr(name, ':');
  if (!colon) fail(key, "the signature " SIGNATURE " of this model has no such tensor");
  *colon = 0;
  TF_Operation *operation = TF_GraphOperationByName(graph, name);
  if (!operation) fail(name, "this operation of the signature is not in the graph");
  return (TF_Output){operation, atoi(colon + 1)};
}

/* ---- Tensors from files. */

static TF_Tensor *read_tensor(const char *folder, const char *file, TF_DataType type, int n_dims, const int64_t *dims) {
  char path[4096];
  snprintf(path, sizeof path, "%s/%s", folder, file);
  size_t size = TF_DataTypeSize(type);
  for (int i = 0; i < n_dims; i++) size *= dims[i];
  TF_Tensor *tensor = TF_AllocateTensor(type, dims, n_dims, size);
  FILE *from = fopen(path, "rb");
  if (!from) fail(path, "cannot be read");
  if (fread(TF_TensorData(tensor), 1, size, from) != size || fgetc(from) != EOF) fail(path, "is of another size");
  fclose(from);
  return tensor;
}

static TF_Tensor *number(double value) {
  const int64_t one = 1;
  TF_Tensor *tensor = TF_AllocateTensor(TF_FLOAT, &one, 1, sizeof(float));
  *(float *)TF_TensorData(tensor) = (float)value;
  return tensor;
}

int main(int argc, char **argv) {
  if (argc != 8) fail("usage", "reconstruct MODEL FOLDER ROWS COLUMNS STAMP PIXEL_SCALE SOURCE_PIXEL_SCALE");
  const char *folder = argv[2];
  const int64_t image[] = {1, atoi(argv[3]), atoi(argv[4])}, stamp[] = {1, atoi(argv[5]), atoi(argv[5])};
  const int64_t lens[] = {1, 7};

  TF_Status *status = TF_NewStatus();
  TF_Graph *graph = TF_NewGraph();
  TF_SessionOptions *options = TF_NewSessionOptions();
  TF_Buffer *definition = TF_NewBuffer();
  const char *tags[] = {"serve"};
  TF_Session *session = TF_LoadSessionFromSavedModel(options, NULL, argv[1], tags, 1, graph, definition, status);
  check(status, argv[1]);

  const char *inputs[] = {"image", "noise_rms", "mask", "psf", "lens", "pixel_scale", "source_pixel_scale"};
  TF_Tensor *values[] = {
      read_tensor(folder, "image.f32", TF_FLOAT, 3, image), read_tensor(folder, "noise_rms.f32", TF_FLOAT, 3, image),
      read_tensor(folder, "mask.u8", TF_BOOL, 3, image),    read_tensor(folder, "psf.f32", TF_FLOAT, 3, stamp),
      read_tensor(folder, "lens.f32", TF_FLOAT, 2, lens),   number(atof(argv[6])),
      number(atof(argv[7]))};
  const char *outputs[] = {"status", "chi2_per_pixel", "flux", "magnification", "source"};
  enum { N_INPUTS = sizeof inputs / sizeof *inputs, N_OUTPUTS = sizeof outputs / sizeof *outputs };
  TF_Output feeds[N_INPUTS], fetches[N_OUTPUTS];
  TF_Tensor *results[N_OUTPUTS];
  for (int i = 0; i < N_INPUTS; i++) feeds[i] = tensor_of(graph, definition, INPUTS, inputs[i]);
  for (int i = 0; i < N_OUTPUTS; i++) fetches[i] = tensor_of(graph, definition, OUTPUTS, outputs[i]);

  TF_SessionRun(session, NULL, feeds, values, N_INPUTS, fetches, results, N_OUTPUTS, NULL, 0, NULL, status);
  check(status, SIGNATURE);
  int32_t wrong = *(int32_t *)TF_TensorData(results[0]);
  if (wrong) {
    fprintf(stderr, "This lens cannot be used; the model card says what status %d is.\n", wrong);
    return 1;
  }
  for (int i = 1; i < 4; i++) printf("%s %.6g\n", outputs[i], *(float *)TF_TensorData(results[i]));

  char path[4096];
  snprintf(path, sizeof path, "%s/source.f32", folder);
  FILE *to = fopen(path, "wb");
  if (!to) fail(path, "cannot be written");
  fwrite(TF_TensorData(results[4]), 1, TF_TensorByteSize(results[4]), to);
  if (fclose(to)) fail(path, "cannot be written");
  printf("source %lld x %lld\n", (long long)TF_Dim(results[4], 1), (long long)TF_Dim(results[4], 2));

  for (int i = 0; i < N_INPUTS; i++) TF_DeleteTensor(values[i]);
  for (int i = 0; i < N_OUTPUTS; i++) TF_DeleteTensor(results[i]);
  TF_CloseSession(session, status);
  TF_DeleteSession(session, status);
  TF_DeleteSessionOptions(options);
  TF_DeleteBuffer(definition);
  TF_DeleteGraph(graph);
  TF_DeleteStatus(status);
  return 0;
}
