/* A stand-in for libedgetpu: takes the operator `edgetpu-custom-op` and does what the committed network does that was
 * "compiled" for it (light 8x8 squares in a picture of 64x48), from and to quantised tensors. Options:
 *
 *   device   noted, with the number of inferences, in the file that $STAND_IN_LOG names; "usb:7" is not there
 *   refuse   refuse to start, with this text
 *   break    "prepare", "crash": fail, or take the process along, when the network is loaded; "invoke": fail on each picture; "hang": never answer;
 *            "late fault", "late hang": take the process along, or never answer, after a good start */
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "delegate.h"

enum { CELL = 8, COLUMNS = 8, ROWS = 6, CELLS = COLUMNS * ROWS, GOOD_START = 30 };

typedef struct {
  Delegate delegate;
  char device[32];
  char fail[32];
} StandIn;

static void note(const StandIn *self, const char *what) {
  const char *path = getenv("STAND_IN_LOG");
  FILE *file = path ? fopen(path, "a") : NULL;
  if (!file) return;
  fprintf(file, "%s %s\n", what, self->device[0] ? self->device : "-");
  fclose(file);
}

/* Scale and zero point of the element at `row` of the quantised dimension. */
static void quantise(Tensor *tensor, int row, int at, float real) {
  const Affine *affine = tensor->quantization.params;
  const int channel = affine->scale->size > 1 ? row : 0;
  const long level = lroundf(real / affine->scale->data[channel]) + affine->zero_point->data[channel];
  if (tensor->type == 9) ((int8_t *)tensor->data)[at] = level < -128 ? -128 : level > 127 ? 127 : level;
  if (tensor->type == 3) ((uint8_t *)tensor->data)[at] = level < 0 ? 0 : level > 255 ? 255 : level;
}

static void *init(Context *context, const char *buffer, size_t length) {
  (void)context, (void)length;
  struct { Delegate *delegate; } const *params = (const void *)buffer;
  return params->delegate->data;
}

static int prepare(Context *context, Node *node) {
  const StandIn *self = node->user_data;
  if (strcmp(self->fail, "crash") == 0) raise(SIGSEGV);
  if (strcmp(self->fail, "prepare") != 0) return 0;
  context->ReportError(context, "Package requires runtime version (14), which is newer than this runtime version (12).");
  return 1;
}

static int invoke(Context *context, Node *node) {
  const StandIn *self = node->user_data;
  const Tensor *image = &context->tensors[node->inputs->data[0]];
  if (strcmp(self->fail, "invoke") == 0) {
    context->ReportError(context, "the device was unplugged");
    return 1;
  }
  note(self, "invoke");
  static int pictures;
  const bool late = ++pictures > GOOD_START;
  if (late && strcmp(self->fail, "late fault") == 0) raise(SIGSEGV);
  while (strcmp(self->fail, "hang") == 0 || (late && strcmp(self->fail, "late hang") == 0)) sleep(1);
  Tensor *first = &context->tensors[node->outputs->data[0]];
  if (first->bytes == image->bytes) { /* a segment that hands the picture on */
    memcpy(first->data, image->data, image->bytes);
    return 0;
  }
  for (int cell = 0; cell < CELLS; ++cell) {
    const int top = cell / COLUMNS * CELL, left = cell % COLUMNS * CELL;
    float sum = 0;
    for (int y = 0; y < CELL; ++y)
      for (int x = 0; x < CELL * 3; ++x) {
        const int at = ((top + y) * COLUMNS * CELL + left) * 3 + x;
        const int level = image->type == 9 ? ((int8_t *)image->data)[at] : ((uint8_t *)image->data)[at];
        sum += (level - image->params.zero_point) * image->params.scale;
      }
    const float real[5] = {left + CELL / 2, top + CELL / 2, CELL, CELL, 1 / (1 + expf(12 - 8 * (sum / (CELL * CELL * 3) + 1)))};
    for (int i = 0; i < node->outputs->size; ++i) {
      Tensor *output = &context->tensors[node->outputs->data[i]];
      const int rows = output->dims->data[1];
      for (int row = 0; row < rows; ++row) quantise(output, row, row * CELLS + cell, real[rows == 1 ? 4 : row]);
    }
  }
  return 0;
}

static int take(Context *context, Delegate *delegate) {
  IntArray *plan;
  if (context->GetExecutionPlan(context, &plan)) return 1;
  IntArray *mine = calloc(1, sizeof(int) * (1 + plan->size));
  for (int i = 0; i < plan->size; ++i) {
    Node *node;
    Registration *registration;
    const int index = plan->data[i];
    if (context->GetNodeAndRegistration(context, index, &node, &registration)) return 1;
    if (registration->custom_name && strcmp(registration->custom_name, "edgetpu-custom-op") == 0)
      mine->data[mine->size++] = index;
  }
  Registration kernel = {.init = init, .prepare = prepare, .invoke = invoke, .custom_name = "EdgeTpuStandIn", .version = 1};
  const int status = mine->size ? context->ReplaceNodeSubsetsWithDelegateKernels(context, kernel, mine, delegate) : 0;
  free(mine);
  return status;
}

Delegate *tflite_plugin_create_delegate(char **keys, char **values, size_t count, void (*report)(const char *)) {
  StandIn *self = calloc(1, sizeof *self);
  for (size_t i = 0; i < count; ++i) {
    const bool absent = strcmp(keys[i], "device") == 0 && strcmp(values[i], "usb:7") == 0;
    if (absent || strcmp(keys[i], "refuse") == 0) {
      report(absent ? "no such device" : values[i]);
      free(self);
      return NULL;
    }
    if (strcmp(keys[i], "device") == 0) strncpy(self->device, values[i], sizeof self->device - 1);
    if (strcmp(keys[i], "break") == 0) strncpy(self->fail, values[i], sizeof self->fail - 1);
  }
  /* Flag 1, dynamic tensors: without it the runtime prepares the unknown operator itself first, and gives up. */
  self->delegate = (Delegate){.data = self, .Prepare = take, .flags = 1};
  note(self, "open");
  return &self->delegate;
}

void tflite_plugin_destroy_delegate(Delegate *delegate) {
  if (!delegate) return;
  note(delegate->data, "close");
  free(delegate->data);
}
